"""Joins Airflow and the tasks: what Airflow knows, as the `Worker` that a task is given."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from airflow.sdk import Connection
from airflow.sdk.exceptions import AirflowNotFoundException
from airflow.sdk.log import mask_secret

from include.settings import settings
from include.store import Log
from include.worker import Worker

if TYPE_CHECKING:
    from airflow.sdk import Context


def worker_of(context: Context, log: Log) -> Worker:
    """The worker of a running task."""
    return Worker(settings=settings(), log=log, run_id=context["run_id"], find_token=hub_token)


def hub_token() -> str | None:
    """The Hub token: the password of the Airflow Connection, else ``HF_TOKEN``; masked in every log."""
    try:
        token = Connection.get(settings().hub_connection).password
    except AirflowNotFoundException:
        token = os.environ.get("HF_TOKEN")
    if token:
        mask_secret(token)
    return token or None
