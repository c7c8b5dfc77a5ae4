"""A run as its page shows it: its tasks in their order, with how far each is and how long it may take."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from include.releases.run import ARROW, TaskTime
from include.report.pace import Pace

ORDER = (
    "check_request",
    "pull_model",
    "measure_original",
    "calibrate_awq",
    "build_engine",
    "assemble_repository",
    "launch_triton",
    "validate_generate",
    "approve_release",
    "promote_release",
    "stop_candidate",
    "finish_run",
)
"""The tasks of a release, in their order."""


def in_order(tasks: Sequence[TaskTime]) -> list[TaskTime]:
    """The tasks of a run's record in the order in which they run; Airflow gives them by name."""
    return sorted(tasks, key=lambda one: ORDER.index(one.task) if one.task in ORDER else len(ORDER))


_OVER = ("success", "failed")
_NOT_RUN = {"upstream_failed", "skipped", "removed"}
_JUDGES = "validate_generate"


@dataclass(frozen=True)
class Task:
    """A task of a run. ``state`` is in Airflow's words, ``error`` the message of its failure."""

    name: str
    state: str = "waiting"
    began: datetime | None = None
    seconds: float | None = None
    progress: str = ""
    error: str = ""

    @property
    def is_over(self) -> bool:
        """True if the task has ended, or will not run."""
        return self.state in {*_OVER, *_NOT_RUN}

    def elapsed(self, now: datetime) -> float | None:
        """The seconds of the task so far, or in all; None if it has not run."""
        if self.state in _NOT_RUN:
            return None
        if self.state == "running" and self.began:
            return (now - self.began).total_seconds()
        return self.seconds


@dataclass(frozen=True)
class Run:
    """A run of a DAG: its note, its state, and its tasks by name."""

    dag: str
    id: str
    state: str
    note: str
    began: datetime | None
    ended: datetime | None
    tasks: Mapping[str, Task]

    @property
    def is_over(self) -> bool:
        """True if the run has ended."""
        return self.state in _OVER

    @property
    def title(self) -> str:
        """What the run is."""
        return self._line.partition(ARROW)[0] or self.id

    @property
    def outcome(self) -> str:
        """What came of the run, if its note says so."""
        return self._line.partition(ARROW)[2]

    @property
    def _line(self) -> str:
        return self.note.partition("\n")[0]

    @property
    def in_order(self) -> list[Task]:
        """The tasks in their order; those of another DAG as they began."""
        known = [self.tasks.get(name, Task(name)) for name in ORDER if self.tasks.keys() & {*ORDER}]
        others = [task for name, task in self.tasks.items() if name not in ORDER or not known]
        return known + sorted(others, key=lambda task: (task.began is None, str(task.began), task.name))

    @property
    def errors(self) -> list[Task]:
        """The failed tasks that say why."""
        return [task for task in self.in_order if task.state == "failed" and task.error]

    @property
    def failed_beside_its_gates(self) -> bool:
        """True if something else than a gate failed, so that a report on the gates would not say what."""
        return any(task.name != _JUDGES for task in self.errors)

    def left(self, paces: Mapping[str, Pace], now: datetime) -> float | None:
        """The seconds that the run may still take, None if no earlier run can tell."""
        if not paces or self.is_over:
            return None
        ahead = [task for task in self.in_order if task.state in {"waiting", "scheduled", "queued", "running"}]
        rests = (paces[task.name].seconds - (task.elapsed(now) or 0) for task in ahead if task.name in paces)
        return sum(max(rest, 0) for rest in rests)
