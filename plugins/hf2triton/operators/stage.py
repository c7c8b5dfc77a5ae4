"""The operator for tasks that run a stage program in the target's environment."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Any

from airflow.sdk import Context

from hf2triton.context import task_context
from hf2triton.operators.task import TaskOperator, describe_events
from include.settings import settings

if TYPE_CHECKING:
    from pathlib import Path

    from include.runners.job import StageJob
    from include.runners.process import ProcessRunner


class StageOperator(TaskOperator):
    """Takes the artifact from the store, or runs the stage program that makes it.

    ``job`` of the module in `include.tasks` that has this task's id says which program that is.
    """

    _runner: ProcessRunner | None = None

    def execute(self, context: Context) -> Any:  # noqa: ANN401
        """Returns the reference to the artifact; nothing is started on a hit."""
        job: StageJob = self.call("job", context)
        store = task_context(context, self.log.info).store
        with store.claim(job.kind, job.inputs, log=self.log.info) as claim:
            if not claim.hit:
                self._run(job, claim.partial)
                claim.commit()
        made = {"kind": job.kind, "name": claim.name, "reused": claim.hit}
        describe_events(self, made, context)
        return made

    def on_kill(self) -> None:
        """Ends the stage program with the task."""
        if self._runner is not None:
            self._runner.stop()

    def _run(self, job: StageJob, out: Path) -> None:
        from include.runners.process import ProcessRunner
        from include.targets.registry import get_target

        command = get_target(job.target, settings()).command(job.module, job.args)
        self.log.info("running %s", shlex.join(command.argv))
        self._runner = ProcessRunner(self.log.info)
        self._runner.run(command, out)
