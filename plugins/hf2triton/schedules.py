"""The schedule of DAG `rebuild_on_change`: it runs whenever an entry of the catalogue is due."""

from __future__ import annotations

from airflow.sdk import MultipleCronTriggerTimetable

from include.requests.catalogue import load
from include.settings import settings


def catalogue_timetable() -> MultipleCronTriggerTimetable | None:
    """The timetable of all enabled entries; None if there are none, so that the DAG is only started manually."""
    crons = sorted({entry.schedule for entry in load(settings().catalogue).followed})
    return MultipleCronTriggerTimetable(*crons, timezone="UTC") if crons else None
