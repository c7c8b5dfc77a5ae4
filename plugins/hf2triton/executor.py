"""An executor for tasks whose questions are answered before their process has ended."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from airflow.executors import local_executor

if TYPE_CHECKING:
    from airflow.executors.workloads import ExecutorWorkload
    from airflow.executors.workloads.types import WorkloadKey, WorkloadState
    from airflow.models.taskinstance import TaskInstance


class LocalExecutor(local_executor.LocalExecutor):
    """A LocalExecutor that knows the tasks at work, so that a task that resumes after a wait does not fail.

    A task that waits for an answer ends its process. If the answer comes before the scheduler has read that event,
    Airflow 3.3's LocalExecutor takes it for the end of the process that acts on the answer: the answer is lost, and
    the task starts again. Airflow 3.4 counts processes, too (its issue 67287).
    """

    def start(self) -> None:
        """Starts the executor without any task at work."""
        self._processes: Counter[WorkloadKey] = Counter()
        super().start()

    def has_task(self, task_instance: TaskInstance) -> bool:
        """True if the task is queued, or the end of one of its processes has not been read."""
        return super().has_task(task_instance) or task_instance.key in self._processes

    def change_state(
        self, key: WorkloadKey, state: WorkloadState, info: object = None, remove_running: bool = True
    ) -> None:
        """Records that a process has ended, and the task's new state."""
        self._processes -= Counter([key])
        super().change_state(key, state, info, remove_running)

    def _process_workloads(self, workload_list: Sequence[ExecutorWorkload]) -> None:
        self._processes += Counter(workload.key for workload in workload_list)
        super()._process_workloads(workload_list)  # type: ignore[no-untyped-call]
