"""Joins Airflow and the tasks: what Airflow knows, as the `Worker` that a task is given."""

from __future__ import annotations

import os
from functools import partial
from typing import TYPE_CHECKING

from airflow.sdk import Connection
from airflow.sdk.exceptions import AirflowNotFoundException
from airflow.sdk.log import mask_secret

from include.settings import settings
from include.store import Log
from include.worker import Worker

if TYPE_CHECKING:
    from airflow.sdk import Context
    from airflow.sdk.types import RuntimeTaskInstanceProtocol

RELEASE_DAG = "release_awq_engine"


def worker_of(context: Context, log: Log) -> Worker:
    """The worker of a running task."""
    return Worker(
        settings=settings(),
        log=log,
        dag_id=context["ti"].dag_id,
        run_id=context["run_id"],
        find_token=hub_token,
        is_over=partial(_is_over, context["ti"]),
    )


def _is_over(ti: RuntimeTaskInstanceProtocol, run_id: str) -> bool:
    """Whether a run of the releasing DAG is neither queued nor running; one that was deleted is over, too."""
    return ti.get_dr_count(RELEASE_DAG, run_ids=[run_id], states=["queued", "running"]) == 0


def hub_token() -> str | None:
    """The Hub token: the password of the Airflow Connection, else ``HF_TOKEN``; masked in every log."""
    try:
        token = Connection.get(settings().hub_connection).password
    except AirflowNotFoundException:
        token = os.environ.get("HF_TOKEN")
    if token:
        mask_secret(token)
    return token or None
