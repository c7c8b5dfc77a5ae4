"""A task that goes on after a wait is at work until its last process has ended."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.executors.executor_loader import import_string
from airflow.models.taskinstancekey import TaskInstanceKey

from include.demo import airflow
from include.settings import Settings

TASK: Any = SimpleNamespace(id="1", key=TaskInstanceKey("release_awq_engine", "approve_release", "manual__1"))


class Scheduler:
    """The scheduler's end of the demo's executor, which has no workers: the test says when a process has ended."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.executor = import_string(airflow.environment(Settings())["AIRFLOW__CORE__EXECUTOR"])(parallelism=4)
        self.executor.is_mp_using_fork = False
        monkeypatch.setattr(self.executor, "_check_workers", lambda: None)
        self.executor.start()

    def start_a_process(self) -> None:
        work = SimpleNamespace(key=TASK.key, ti=SimpleNamespace(priority_weight=1))
        self.executor.queued_tasks[TASK.key] = work
        self.executor.heartbeat()

    def end_a_process(self, state: str) -> None:
        self.executor.result_queue.put((TASK.key, state, None))


@pytest.fixture
def scheduler(monkeypatch: pytest.MonkeyPatch) -> Iterator[Scheduler]:
    made = Scheduler(monkeypatch)
    yield made
    made.executor.end()


def test_the_end_before_the_wait_does_not_end_what_goes_on(scheduler: Scheduler) -> None:
    scheduler.start_a_process()
    scheduler.end_a_process("success")
    scheduler.start_a_process()  # in the loop that reads of the first one's end
    assert scheduler.executor.get_event_buffer() == {TASK.key: ("success", None)}
    assert scheduler.executor.has_task(TASK)


@pytest.mark.parametrize("processes", [1, 2], ids=["without a wait", "after a wait"])
def test_the_last_end_is_the_task_s(scheduler: Scheduler, processes: int) -> None:
    for _ in range(processes):
        scheduler.start_a_process()
        scheduler.end_a_process("failed")
    scheduler.executor.heartbeat()
    assert not scheduler.executor.has_task(TASK)
