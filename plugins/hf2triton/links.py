"""Buttons on a task's page."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import quote, urlsplit

from airflow.sdk import BaseOperatorLink
from airflow.sdk.configuration import conf

if TYPE_CHECKING:
    from airflow.sdk import BaseOperator
    from airflow.sdk.types import TaskInstanceKey

# Below the web UI's own address, which may have a path.
PREFIX = "hf2triton"


def root_path() -> str:
    """The path of the web UI's address, without a slash at its end."""
    return urlsplit(str(conf.get("api", "base_url", fallback=""))).path.rstrip("/")


def report_url(dag_id: str, run_id: str) -> str:
    """The path of a run's report on the web UI's host, so that the link works under any name of the host."""
    return f"{root_path()}/{PREFIX}/runs/{quote(dag_id)}/{quote(run_id)}"


class ReportLink(BaseOperatorLink):
    """The link to the report of the release of the task's run."""

    name = "Release report"

    def get_link(self, operator: BaseOperator, *, ti_key: TaskInstanceKey) -> str:
        """The link's URL; the worker makes it when the task succeeds, fails or begins to wait."""
        return report_url(ti_key.dag_id, ti_key.run_id)
