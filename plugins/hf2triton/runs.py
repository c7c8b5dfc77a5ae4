"""The runs in Airflow's database, as the API server reads them for a run's page."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from airflow.models.dagrun import DagRun
from airflow.models.taskinstance import TaskInstance
from airflow.models.xcom import XComModel
from airflow.utils.session import create_session
from sqlalchemy import select
from sqlalchemy.orm import Session

from hf2triton.context import ERROR, PROGRESS
from include.report.runs import Run, Task


def find(dag_id: str, run_id: str) -> tuple[Run, dict[str, Any]] | None:
    """A run and its conf; None if Airflow does not know it."""
    with create_session() as session:
        return read(session, dag_id, run_id)


def read(session: Session, dag_id: str, run_id: str) -> tuple[Run, dict[str, Any]] | None:
    """A run and its conf, from a session with the database."""
    run = session.scalar(select(DagRun).where(DagRun.dag_id == dag_id, DagRun.run_id == run_id))
    if run is None:
        return None
    tasks = session.scalars(
        select(TaskInstance).where(TaskInstance.dag_id == dag_id, TaskInstance.run_id == run_id)
    ).all()
    said = _said(session, dag_id, run_id)
    found = Run(
        dag=dag_id,
        id=run_id,
        state=str(run.state),
        note=run.note or "",
        began=run.start_date,
        ended=run.end_date,
        tasks={one.task_id: _task(one, said[one.task_id]) for one in tasks},
    )
    return found, dict(run.conf or {})


def _task(one: TaskInstance, said: dict[str, str]) -> Task:
    return Task(
        name=one.task_id,
        state=str(one.state or "waiting"),
        began=one.start_date,
        seconds=one.duration,
        progress=said.get(PROGRESS, ""),
        error=said.get(ERROR, ""),
    )


def _said(session: Session, dag_id: str, run_id: str) -> dict[str, dict[str, str]]:
    """What the tasks have said, by task and kind."""
    entries = select(XComModel).where(
        XComModel.dag_id == dag_id, XComModel.run_id == run_id, XComModel.key.in_((PROGRESS, ERROR))
    )
    said: dict[str, dict[str, str]] = defaultdict(dict)
    for entry in session.scalars(entries):
        said[entry.task_id][entry.key] = str(XComModel.deserialize_value(entry))
    return said
