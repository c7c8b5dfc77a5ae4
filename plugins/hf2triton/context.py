"""The connection between Airflow and the tasks: Airflow's data as the `TaskContext` of a task."""

from __future__ import annotations

import os
from functools import partial
from typing import TYPE_CHECKING, cast

from airflow.sdk import Connection, DagRunState
from airflow.sdk.configuration import conf
from airflow.sdk.exceptions import AirflowNotFoundException
from airflow.sdk.log import mask_secret

from include.context import Context as TaskContext
from include.errors import HostError
from include.files import Log
from include.host.docker.registry import RegistryLogin
from include.redaction import own_secrets, without_secrets
from include.releases.run import RunRecord, TaskTime, versions
from include.settings import settings

if TYPE_CHECKING:
    from airflow.sdk import Context
    from airflow.sdk.execution_time.task_runner import RuntimeTaskInstance
    from airflow.sdk.types import RuntimeTaskInstanceProtocol

RELEASE_DAG = "release_awq_engine"
COMPARE_DAG = "compare_settings"
OUTCOME = "outcome"
"""The XCom in which a task tells what came of its run, in a few words."""
PROGRESS = "progress"
"""The XCom in which a task tells how far it is."""
ERROR = "error"
"""The XCom with the message of a task that failed."""
_OVER = (DagRunState.SUCCESS, DagRunState.FAILED)


def task_context(context: Context, log: Log) -> TaskContext:
    """The `TaskContext` of a running task. Its log, and all that Airflow logs, is without this worker's secrets."""
    secrets = own_secrets()
    for secret in secrets:
        mask_secret(secret)
    return TaskContext(
        settings=settings(),
        log=lambda line: log(without_secrets(line, secrets)),
        dag_id=context["ti"].dag_id,
        run_id=context["run_id"],
        find_token=hub_token,
        find_login=registry_login,
        run_state=partial(_run_state, context["ti"]),
        find_run=partial(_find_run, context),
        find_requester=lambda: context["dag_run"].triggering_user_name,
        find_users=find_users,
        tell=lambda outcome: keep(context, OUTCOME, without_secrets(outcome, secrets)),
        web_url=str(conf.get("api", "base_url", fallback="")).rstrip("/"),
        publish=lambda progress: keep(context, PROGRESS, without_secrets(progress, secrets)),
    )


def keep(context: Context, key: str, text: str) -> None:
    """Keeps a text with the task's instance, for the run's note and page."""
    context["ti"].xcom_push(key=key, value=text)


def _run_state(ti: RuntimeTaskInstanceProtocol, run_id: str) -> str | None:
    """The state of a run of a DAG that makes artifacts and starts candidates; None if Airflow does not know the run."""
    known = [dag for dag in (RELEASE_DAG, COMPARE_DAG) if ti.get_dr_count(dag, run_ids=[run_id])]
    states = [DagRunState(ti.get_dagrun_state(dag, run_id)) for dag in known]
    # Runs of both may have one id: what they need stays until both are over.
    return next((state.value for state in states if state not in _OVER), states[0].value if states else None)


def _find_run(context: Context) -> RunRecord:
    """The record of the run so far; Airflow gives the durations of ended tasks, but not the times of queueing."""
    ti, run = cast("RuntimeTaskInstance", context["ti"]), context["dag_run"]
    ended = ti.get_task_breadcrumbs(ti.dag_id, run.run_id)
    return RunRecord(
        id=run.run_id,
        queued_at=run.run_after,
        started_at=run.start_date,
        tasks=tuple(TaskTime(task=t["task_id"], state=t["state"], seconds=t["duration"]) for t in ended),
        versions={**versions(), "dag_version": str(ti.dag_version_id)},
    )


def find_users() -> frozenset[str] | None:
    """The ids of the users who may answer questions; None with an auth manager that keeps its users out of reach.

    The simple auth manager has them in Airflow's configuration, which workers read, too. Others have a database.
    """
    if not str(conf.get("core", "auth_manager")).endswith(".SimpleAuthManager"):
        return None
    if conf.getboolean("core", "simple_auth_manager_all_admins"):
        return frozenset({"Anonymous"})  # whoever calls is this one user
    users = (user.split(":") for user in conf.getlist("core", "simple_auth_manager_users"))
    return frozenset(name for name, role, *_ in users if role.lower() in {"user", "op", "admin"})


def hub_token() -> str | None:
    """The Hub token: the password of the Airflow Connection, else ``HF_TOKEN``; masked in every log."""
    try:
        token = Connection.get(settings().hub_connection).password
    except AirflowNotFoundException:
        token = os.environ.get("HF_TOKEN")
    token = (token or "").strip()
    if token:
        mask_secret(token)
    return token or None


def registry_login() -> RegistryLogin | None:
    """The login of the registry with the deployment's images, if one is configured; masked in every log.

    Raises:
        HostError: the Airflow Connection does not exist, or is incomplete.
    """
    name = settings().docker_connection
    if name is None:
        return None
    try:
        found = Connection.get(name)
    except AirflowNotFoundException as error:
        raise _bad_connection(f"there is no Airflow Connection {name}") from error
    if not (found.host and found.login and found.password):
        raise _bad_connection(f"Airflow Connection {name} lacks the host, the login or the password of a registry")
    mask_secret(found.password)
    host = f"{found.host}:{found.port}" if found.port else found.host
    return RegistryLogin(name, host, found.login, found.password)


def _bad_connection(what: str) -> HostError:
    return HostError(
        what,
        where="HF2TRITON_DOCKER_CONNECTION",
        fix="make it under Admin, Connections: type docker, host registry.example, login and password",
    )
