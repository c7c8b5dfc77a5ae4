"""The operator for tasks that run a stage program in the target's environment."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from hf2triton.context import task_context
from hf2triton.operators.failures import message_first
from hf2triton.operators.task import TaskOperator, call_task
from include import report
from include.context import stage_gpus
from include.redaction import call_redacted, own_secrets
from include.requests.release import ReleaseRequest
from include.runners.job import Runner, StageJob
from include.runners.process import ProcessRunner
from include.runners.progress import StageLog

if TYPE_CHECKING:
    from airflow.sdk import Context

    from include.context import Context as TaskContext
    from include.files import Log


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
        request = ReleaseRequest.parse(dict(context["params"]))
        earlier = report.paces(task.releases, request).get(self.task_id)
        parts = earlier.parts if earlier else {}
        lines = StageLog(task.log, self.log.debug, task.publish, parts)
        self._runner = runner = self.make_runner(task, context, lines)
        with task.store.claim(job.kind, job.inputs, log=self.log.info, resume=runner.resumes) as claim:
            if earlier and not claim.hit:
                task.progress(str(earlier))
            call_redacted(lambda: runner.run(job, claim), own_secrets())
        made = self.told = {"kind": job.kind, "name": claim.name, "reused": claim.hit}
        self.describe(made, context)
        return made

    def on_kill(self) -> None:
        """Ends the stage program with the task."""
        if self._runner is not None:
            self._runner.stop()

    def make_runner(self, task: TaskContext, context: Context, log: Log) -> Runner:
        """The runner of one attempt; ``log`` gets its lines and those of its program."""
        return ProcessRunner(task.target, log, partial(stage_gpus, task))
