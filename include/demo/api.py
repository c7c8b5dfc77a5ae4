"""What the demo asks of Airflow's REST API, by its official client."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import httpx
from airflow_client import client as airflow
from urllib3.exceptions import HTTPError

from include.errors import UserError

API_ERRORS = (airflow.ApiException, HTTPError)
"""Raised if Airflow refuses, or does not answer."""


@dataclass(frozen=True)
class TaskState:
    """A task instance: seconds it ran so far, and its state in Airflow's words (None: not scheduled yet)."""

    task: str
    state: str | None
    seconds: float | None
    try_number: int


class AirflowApi:
    """A logged-in client of one Airflow. Its methods raise `API_ERRORS`."""

    def __init__(self, url: str, username: str, password: str) -> None:
        self.url = url
        login = {"username": username, "password": password}
        answer = httpx.post(f"{url}/auth/token", json=login, timeout=120, trust_env=False).raise_for_status()
        self.token = str(answer.json()["access_token"])
        self._client = airflow.ApiClient(airflow.Configuration(host=url, access_token=self.token))

    def import_errors(self, file: str = "") -> list[str]:
        """Stack traces of the DAG files that could not be parsed, or of the one of that name."""
        errors = airflow.ImportErrorApi(self._client).get_import_errors().import_errors
        return [error.stack_trace for error in errors if error.filename.endswith(file)]

    def has_dag(self, dag: str) -> bool:
        """Whether Airflow has parsed the DAG."""
        return any(found.dag_id == dag for found in airflow.DAGApi(self._client).get_dags(dag_id_pattern=dag).dags)

    def trigger(self, dag: str, conf: dict[str, Any]) -> str:
        """Starts a run; returns its id. Raises `UserError` if Airflow refuses the params."""
        airflow.DAGApi(self._client).patch_dag(dag, airflow.DAGPatchBody(is_paused=False))
        body = airflow.TriggerDAGRunPostBody(logical_date=None, conf=conf)
        try:
            return str(airflow.DagRunApi(self._client).trigger_dag_run(dag, body).dag_run_id)
        except airflow.ApiException as error:
            if not 400 <= error.status < 500:
                raise
            detail = json.loads(error.body or "{}").get("detail")
            raise UserError(f"Airflow refused the run: {detail}", where=dag, fix="correct the params") from error

    def run_state(self, dag: str, run: str) -> str:
        """``queued``, ``running``, ``success`` or ``failed``."""
        return str(airflow.DagRunApi(self._client).get_dag_run(dag, run).state.value)

    def tasks(self, dag: str, run: str) -> dict[str, TaskState]:
        """The run's tasks by id."""
        found = airflow.TaskInstanceApi(self._client).get_task_instances(dag, run).task_instances
        return {
            t.task_id: TaskState(t.task_id, t.state.value if t.state else None, t.duration, t.try_number) for t in found
        }

    def result(self, dag: str, run: str, task: str) -> Any:  # noqa: ANN401
        """What a task returned, or None."""
        xcoms = airflow.XComApi(self._client)
        try:
            found = xcoms.get_xcom_entry(dag, task, run, "return_value", deserialize=True).actual_instance
        except airflow.ApiException:
            return None
        return found and found.value

    def error(self, dag: str, run: str, state: TaskState) -> str:
        """The failed task's own error, out of its log."""
        logs = airflow.TaskInstanceApi(self._client)
        # As it came: the client's own model of a log leaves the error out.
        events = logs.get_log_without_preload_content(dag, run, state.task, state.try_number).json()["content"]
        details = [e["error_detail"][0] for e in events if e.get("error_detail")]  # what follows are its causes
        if details:
            return f"{details[-1]['exc_type']}: {details[-1]['exc_value']}"
        return "\n".join(str(e.get("event")) for e in events[-10:])
