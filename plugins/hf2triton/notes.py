"""A listener that gives each run a note with what it is and what came of it: Airflow 3.3 has no names for runs.

The scheduler calls it, and the API server when a person sets a run's state. Tasks tell what came of the run by
`hf2triton.context.tell`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from airflow.listeners import hookimpl
from sqlalchemy import select
from sqlalchemy.orm import object_session

from hf2triton.context import OUTCOME
from include.errors import UserError
from include.releases.run import ARROW
from include.requests.release import ReleaseRequest

if TYPE_CHECKING:
    from airflow.models.dagrun import DagRun

NOTE_CHARACTERS = 1000
"""As many as Airflow keeps."""

_BY_HAND = "manually set"


def _release(conf: Mapping[str, Any]) -> str:
    try:
        return ReleaseRequest.parse(dict(conf)).title
    except UserError:
        return str(conf.get("model") or "release").rpartition("/")[2]


SUBJECTS: dict[str, Callable[[Mapping[str, Any]], str]] = {
    "release_awq_engine": _release,
    "compare_settings": lambda conf: f"compare settings of {str(conf.get('model') or 'a model').rpartition('/')[2]}",
    "rollback_release": lambda conf: f"roll {conf.get('name') or conf.get('model') or 'the live model'} back",
    "retire_model": lambda conf: f"retire {conf.get('name')}",
    "prune_artifacts": lambda conf: "prune",
    "check_live_release": lambda conf: "check",
    "rebuild_on_change": lambda conf: "followed models",
}
"""What a run is about, in a few words, by its DAG and its conf."""


@hookimpl
def on_dag_run_running(dag_run: DagRun, msg: str) -> None:
    """The note of a run that begins: what it is about."""
    _write(dag_run, "")


@hookimpl
def on_dag_run_success(dag_run: DagRun, msg: str) -> None:
    """The note of a run that ended well."""
    _write(dag_run, _told(dag_run))


@hookimpl
def on_dag_run_failed(dag_run: DagRun, msg: str) -> None:
    """The note of a run that failed, or that a person cancelled."""
    _write(dag_run, "cancelled" if _BY_HAND in msg else _told(dag_run) or "failed")


def with_first_line(note: str | None, subject: str, outcome: str) -> str:
    """The note with our line above what people and schedules wrote; it replaces that of the run's earlier states."""
    lines = (note or "").splitlines()
    others = lines[1:] if lines and lines[0].partition(ARROW)[0] == subject else lines
    line = f"{subject}{ARROW}{outcome}" if outcome else subject
    return "\n".join((line, *others))[:NOTE_CHARACTERS]


def _write(dag_run: DagRun, outcome: str) -> None:
    if subject := SUBJECTS.get(dag_run.dag_id):
        dag_run.note = with_first_line(dag_run.note, subject(dag_run.conf or {}), outcome)


def _told(dag_run: DagRun) -> str:
    """What the tasks told; of several, the one that told last."""
    from airflow.models.xcom import XComModel

    session = object_session(dag_run)
    if session is None:
        return ""
    said = select(XComModel).where(
        XComModel.dag_id == dag_run.dag_id, XComModel.run_id == dag_run.run_id, XComModel.key == OUTCOME
    )
    found = sorted(session.scalars(said), key=lambda one: (one.timestamp, one.map_index))
    last = [one for one in found if one.task_id == found[-1].task_id]
    return "; ".join(str(XComModel.deserialize_value(one)) for one in sorted(last, key=lambda one: one.map_index))
