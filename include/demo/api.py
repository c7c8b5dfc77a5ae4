"""Airflow's REST API, as far as the demo needs it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import httpx

from include.errors import ToolError, UserError


@dataclass(frozen=True)
class TaskState:
    """A task instance: seconds it ran so far, and its state in Airflow's words (None: not scheduled yet)."""

    task: str
    state: str | None
    seconds: float | None
    try_number: int


class AirflowApi:
    """A logged-in client of one Airflow."""

    def __init__(self, url: str, username: str, password: str) -> None:
        self.url = url
        self._http = httpx.Client(base_url=url, timeout=120, trust_env=False)
        token = self._http.post("/auth/token", json={"username": username, "password": password})
        token.raise_for_status()
        self._http.headers["Authorization"] = f"Bearer {token.json()['access_token']}"

    def import_errors(self, file: str = "") -> list[str]:
        """Stack traces of the DAG files that could not be parsed, or of the one of that name."""
        errors = self.get("/api/v2/importErrors")["import_errors"]
        return [error["stack_trace"] for error in errors if str(error["filename"]).endswith(file)]

    def has_dag(self, dag: str) -> bool:
        """Whether Airflow has parsed the DAG."""
        return self._http.get(f"/api/v2/dags/{dag}").status_code == httpx.codes.OK

    def trigger(self, dag: str, conf: dict[str, Any]) -> str:
        """Starts a run; returns its id. Raises `UserError` if Airflow refuses the params."""
        self._http.patch(f"/api/v2/dags/{dag}", json={"is_paused": False}).raise_for_status()
        answer = self._http.post(f"/api/v2/dags/{dag}/dagRuns", json={"logical_date": None, "conf": conf})
        if answer.is_client_error:
            raise UserError(
                f"Airflow refused the run: {answer.json().get('detail')}", where=dag, fix="correct the params"
            )
        answer.raise_for_status()
        return str(answer.json()["dag_run_id"])

    def run_state(self, dag: str, run: str) -> str:
        """``queued``, ``running``, ``success`` or ``failed``."""
        return str(self.get(f"/api/v2/dags/{dag}/dagRuns/{run}")["state"])

    def tasks(self, dag: str, run: str) -> dict[str, TaskState]:
        """The run's tasks by id."""
        found = self.get(f"/api/v2/dags/{dag}/dagRuns/{run}/taskInstances")["task_instances"]
        return {t["task_id"]: TaskState(t["task_id"], t["state"], t["duration"], t["try_number"]) for t in found}

    def result(self, dag: str, run: str, task: str) -> Any:  # noqa: ANN401
        """What a task returned, or None."""
        path = f"/api/v2/dags/{dag}/dagRuns/{run}/taskInstances/{task}/xcomEntries/return_value"
        answer = self._http.get(path, params={"deserialize": True})
        return answer.json()["value"] if answer.is_success else None

    def error(self, dag: str, run: str, state: TaskState) -> str:
        """The failed task's own error, out of its log."""
        path = f"/api/v2/dags/{dag}/dagRuns/{run}/taskInstances/{state.task}/logs/{state.try_number}"
        events = self.get(path)["content"]
        details = [e["error_detail"][0] for e in events if e.get("error_detail")]  # what follows are its causes
        if details:
            return f"{details[-1]['exc_type']}: {details[-1]['exc_value']}"
        return "\n".join(str(e.get("event")) for e in events[-10:])

    def get(self, path: str) -> dict[str, Any]:
        """The JSON at a path; raises `ToolError` if Airflow refuses."""
        return self._call("GET", path)

    def patch(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """Changes what is at a path; raises `ToolError` if Airflow refuses."""
        return self._call("PATCH", path, body)

    def _call(self, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        answer = self._http.request(method, path, json=body)
        if answer.is_error:
            raise ToolError(
                f"{method} {path}: {answer.status_code} {answer.text[:300]}",
                where=self.url,
                fix="see Airflow's log",
            )
        value: dict[str, Any] = answer.json()
        return value
