"""The demo's requests to Airflow's REST API, through its official client."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import httpx
from airflow_client import client as airflow
from urllib3.exceptions import HTTPError

from include.errors import UserError

API_ERRORS = (airflow.ApiException, HTTPError)
"""The errors that are raised if Airflow refuses a request, or does not answer."""


@dataclass(frozen=True)
class TaskState:
    """A task instance: its duration so far in seconds, and its Airflow state (None: not scheduled yet)."""

    task: str
    state: str | None
    seconds: float | None
    try_number: int


class AirflowApi:
    """A logged-in client of one Airflow server. Its methods raise `API_ERRORS`."""

    def __init__(self, url: str, username: str, password: str) -> None:
        self.url = url
        login = {"username": username, "password": password}
        answer = httpx.post(f"{url}/auth/token", json=login, timeout=120, trust_env=False).raise_for_status()
        self.token = str(answer.json()["access_token"])
        self._client = airflow.ApiClient(airflow.Configuration(host=url, access_token=self.token))

    def import_errors(self, file: str = "") -> list[str]:
        """The stack traces of all DAG files that could not be parsed, or only of ``file``."""
        errors = airflow.ImportErrorApi(self._client).get_import_errors().import_errors
        return [error.stack_trace for error in errors if error.filename.endswith(file)]

    def has_dag(self, dag: str) -> bool:
        """True if Airflow has parsed the DAG."""
        return any(found.dag_id == dag for found in airflow.DAGApi(self._client).get_dags(dag_id_pattern=dag).dags)

    def trigger(self, dag: str, conf: dict[str, Any], run: str | None = None) -> str:
        """Starts a run, with the id ``run`` if given; returns its id. Raises `UserError` if Airflow refuses it."""
        airflow.DAGApi(self._client).patch_dag(dag, airflow.DAGPatchBody(is_paused=False))
        body = airflow.TriggerDAGRunPostBody(dag_run_id=run, logical_date=None, conf=conf)
        try:
            return str(airflow.DagRunApi(self._client).trigger_dag_run(dag, body).dag_run_id)
        except airflow.ApiException as error:
            if not 400 <= error.status < 500:
                raise
            detail = json.loads(error.body or "{}").get("detail")
            raise UserError(f"Airflow refused the run: {detail}", where=dag, fix="correct the params") from error

    def run_state(self, dag: str, run: str) -> str:
        """The state of a run: ``queued``, ``running``, ``success`` or ``failed``."""
        return str(airflow.DagRunApi(self._client).get_dag_run(dag, run).state.value)

    def tasks(self, dag: str, run: str) -> dict[str, TaskState]:
        """The run's tasks by id."""
        found = airflow.TaskInstanceApi(self._client).get_task_instances(dag, run).task_instances
        return {
            t.task_id: TaskState(t.task_id, t.state.value if t.state else None, t.duration, t.try_number) for t in found
        }

    def result(self, dag: str, run: str, task: str) -> Any:  # noqa: ANN401
        """The result of a task, or None."""
        xcoms = airflow.XComApi(self._client)
        try:
            found = xcoms.get_xcom_entry(dag, task, run, "return_value", deserialize=True).actual_instance
        except airflow.ApiException:
            return None
        return found and found.value

    def error(self, dag: str, run: str, state: TaskState) -> str:
        """The error of a failed task, from its log."""
        logs = airflow.TaskInstanceApi(self._client)
        # The raw answer: the client's model of a log leaves the error out.
        events = logs.get_log_without_preload_content(dag, run, state.task, state.try_number).json()["content"]
        details = [e["error_detail"][0] for e in events if e.get("error_detail")]  # its causes follow
        if details:
            return f"{details[-1]['exc_type']}: {details[-1]['exc_value']}"
        return "\n".join(str(e.get("event")) for e in events[-10:])
