"""The operator for tasks that run a stage program in the target's environment."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from hf2triton.context import task_context
from hf2triton.operators.failures import message_first
from hf2triton.operators.task import TaskOperator, call_task
from include.context import stage_gpus
from include.redaction import call_redacted, own_secrets
from include.runners.job import Runner, StageJob
from include.runners.process import ProcessRunner

if TYPE_CHECKING:
    from airflow.sdk import Context

    from include.context import Context as TaskContext


class StageOperator(TaskOperator):
    """The operator that takes the artifact of ``job`` from the store, or has a process make it.

    Killing the task ends the stage program.
    """

    _runner: Runner | None = None

    def __init__(self, *, job: Callable[..., StageJob], **kwargs: Any) -> None:  # noqa: ANN401
        super().__init__(call=job, **kwargs)

    @message_first
    def execute(self, context: Context) -> Any:  # noqa: ANN401
        """Returns the reference to the artifact; starts no program if the store has it."""
        job: StageJob = call_task(self.call, self.inputs, context, self.log.info)
        task = task_context(context, self.log.info)
        self._runner = runner = self.make_runner(task, context)
        with task.store.claim(job.kind, job.inputs, log=self.log.info, resume=runner.resumes) as claim:
            call_redacted(lambda: runner.run(job, claim), own_secrets())
        made = {"kind": job.kind, "name": claim.name, "reused": claim.hit}
        self.describe(made, context)
        return made

    def on_kill(self) -> None:
        """Ends the stage program with the task."""
        if self._runner is not None:
            self._runner.stop()

    def make_runner(self, task: TaskContext, context: Context) -> Runner:
        """The runner of one attempt."""
        return ProcessRunner(task.target, self.log.info, partial(stage_gpus, task))
