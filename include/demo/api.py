"""The demo's requests to Airflow's REST API."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import httpx

from include.errors import ToolError, UserError

_TIMEOUT_S = 120
_MOST = 100


@dataclass(frozen=True)
class TaskState:
    """A task instance: its duration so far in seconds, and its Airflow state (None: not scheduled yet)."""

    task: str
    state: str | None
    seconds: float | None
    try_number: int


class AirflowApi:
    """A logged-in client of one Airflow server.

    Its methods raise `ToolError` if Airflow refuses a request, `httpx.HTTPError` if it does not answer.
    """

    def __init__(self, url: str, username: str, password: str) -> None:
        self.url = url
        login = {"username": username, "password": password}
        answer = httpx.post(f"{url}/auth/token", json=login, timeout=_TIMEOUT_S, trust_env=False).raise_for_status()
        self.token = str(answer.json()["access_token"])

    def import_errors(self, file: str = "") -> list[str]:
        """The stack traces of all DAG files that could not be parsed, or only of ``file``."""
        errors = self._call("GET", f"/api/v2/importErrors?limit={_MOST}")["import_errors"]
        return [error["stack_trace"] for error in errors if error["filename"].endswith(file)]

    def has_dag(self, dag: str) -> bool:
        """True if Airflow has parsed the DAG."""
        return any(one["dag_id"] == dag for one in self._call("GET", f"/api/v2/dags?dag_id_pattern={dag}")["dags"])

    def trigger(self, dag: str, conf: dict[str, Any], run: str | None = None) -> str:
        """Starts a run, with the id ``run`` if given; returns its id. Raises `UserError` if Airflow refuses it."""
        self._call("PATCH", f"/api/v2/dags/{dag}", {"is_paused": False})
        body = {"dag_run_id": run, "logical_date": None, "conf": conf}
        answer = self._send("POST", f"/api/v2/dags/{dag}/dagRuns", body)
        if answer.is_client_error:
            raise UserError(f"Airflow refused the run: {_detail(answer)}", where=dag, fix="correct the params")
        return str(self._accepted(answer)["dag_run_id"])

    def run_state(self, dag: str, run: str) -> str:
        """The state of a run: ``queued``, ``running``, ``success`` or ``failed``."""
        return str(self._call("GET", _path(dag, run))["state"])

    def tasks(self, dag: str, run: str) -> dict[str, TaskState]:
        """The run's tasks by id."""
        found = self._call("GET", f"{_path(dag, run)}/taskInstances?limit={_MOST}")["task_instances"]
        return {t["task_id"]: TaskState(t["task_id"], t["state"], t["duration"], t["try_number"]) for t in found}

    def result(self, dag: str, run: str, task: str) -> Any:  # noqa: ANN401
        """The result of a task, or None."""
        answer = self._send("GET", f"{_path(dag, run, task)}/xcomEntries/return_value?deserialize=true")
        return answer.json()["value"] if answer.is_success else None

    def error(self, dag: str, run: str, state: TaskState) -> str:
        """The error of a failed task, from its log."""
        events = self._call("GET", f"{_path(dag, run, state.task)}/logs/{state.try_number}")["content"]
        details = [e["error_detail"][0] for e in events if e.get("error_detail")]  # its causes follow
        if details:
            return f"{details[-1]['exc_type']}: {details[-1]['exc_value']}"
        return "\n".join(str(e.get("event")) for e in events[-10:])

    def _call(self, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        return self._accepted(self._send(method, path, body))

    def _send(self, method: str, path: str, body: dict[str, Any] | None = None) -> httpx.Response:
        headers = {"Authorization": f"Bearer {self.token}", "Accept": "application/json"}
        url = f"{self.url}{path}"
        return httpx.request(method, url, json=body, headers=headers, timeout=_TIMEOUT_S, trust_env=False)

    def _accepted(self, answer: httpx.Response) -> dict[str, Any]:
        if answer.is_error:
            request = f"{answer.request.method} {answer.request.url.path}"
            raise ToolError(f"Airflow refused {request}: {answer.status_code} {_detail(answer)}", where=self.url)
        found: dict[str, Any] = answer.json()
        return found


def _path(dag: str, run: str, task: str = "") -> str:
    path = f"/api/v2/dags/{dag}/dagRuns/{quote(run)}"
    return f"{path}/taskInstances/{task}" if task else path


def _detail(answer: httpx.Response) -> object:
    """What Airflow says of a refusal."""
    try:
        return answer.json()["detail"]
    except (ValueError, LookupError, TypeError):
        return answer.text[:300]
