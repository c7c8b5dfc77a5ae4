"""The operator for tasks that run a stage program in a container of the target's image."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from airflow.providers.docker.operators.docker import DockerOperator
from airflow.sdk import Context, ResumableJobMixin
from airflow.sdk.exceptions import AirflowException

from hf2triton.context import registry_login, task_context
from hf2triton.operators.task import call_task, describe_events
from include.artifacts.store import Claim
from include.errors import PipelineError
from include.settings import settings

if TYPE_CHECKING:
    from docker import APIClient
    from pydantic import JsonValue

    from include.artifacts.store import ArtifactStore
    from include.host.docker.containers import ContainerSpec
    from include.runners.container import DockerRunner
    from include.runners.container_job import ContainerJob
    from include.runners.job import Command, StageJob
    from include.targets.base import Target

ACTIVE, SUCCEEDED, GONE = "active", "succeeded", "gone"


@dataclass(frozen=True)
class _Attempt:
    """What one attempt holds while it makes its artifact."""

    stage: StageJob
    target: Target
    command: Command
    claim: Claim
    container: ContainerJob
    leases: ExitStack


class DockerStageOperator(ResumableJobMixin, DockerOperator):
    """Takes the artifact from the store, or runs the stage program that makes it in a container.

    ``job`` of the module in `include.tasks` that has this task's id says which program that is. The container
    outlives its worker: the next attempt, or another run that needs the same artifact, finds it by its labels,
    follows it and takes its result. Killing the task removes the container.

    The deployment's registry login is no ``docker_conn_id``: Airflow's hook would log in for each attempt, even where
    the image is on the host and the registry is not there.
    """

    template_fields = ("inputs",)
    external_id_key = "container_id"
    _attempt: _Attempt | None = None

    def __init__(self, *, inputs: Mapping[str, Any] | None = None, **kwargs: Any) -> None:  # noqa: ANN401
        # Which image is the target's business, and the target is a param of the run.
        super().__init__(image="", mount_tmp_dir=False, **kwargs)
        self.inputs = dict(inputs or {})

    def execute(self, context: Context) -> Any:  # noqa: ANN401
        """Returns the reference to the artifact; nothing is started on a hit."""
        stage: StageJob = call_task(self.task_id, "job", self.inputs, context, self.log.info)
        store = task_context(context, self.log.info).store
        with store.claim(stage.kind, stage.inputs, log=self.log.info, resume=True) as claim:
            if claim.hit:
                self._sweep(store)
            else:
                self._make(stage, store, claim, context)
        made = {"kind": stage.kind, "name": claim.name, "reused": claim.hit}
        describe_events(self, made, context)
        return made

    def on_kill(self) -> None:
        """Removes the container with the task."""
        if self._attempt is not None:
            self._attempt.container.stop()

    def submit_job(self, context: Context) -> str:
        """The id of the container that was found, else of a new one."""
        return self._running.container.start(partial(self._spec, context))

    def get_job_status(self, external_id: JsonValue, context: Context) -> str:
        """A container counts only if it works on the artifact that this task wants now."""
        found = self._running.container.found
        if found is None or found.id != external_id:
            return GONE
        return ACTIVE if found.active else SUCCEEDED

    def is_job_active(self, status: str) -> bool:
        """Whether to reattach."""
        return status == ACTIVE

    def is_job_succeeded(self, status: str) -> bool:
        """Whether only the result has to be taken."""
        return status == SUCCEEDED

    def poll_until_complete(self, external_id: JsonValue, context: Context) -> None:
        """Follows the container to its end and takes its result; the mixin asks for no more after a reattach."""
        self._running.container.finish(str(external_id))

    def get_job_result(self, external_id: JsonValue, context: Context) -> None:
        """Takes the result of a container that ended while no worker was there."""
        self._running.container.finish(str(external_id))

    @property
    def _running(self) -> _Attempt:
        if self._attempt is None:
            raise RuntimeError("not within execute")
        return self._attempt

    def _make(self, stage: StageJob, store: ArtifactStore, claim: Claim, context: Context) -> None:
        from include.runners.container_job import ContainerJob

        target = task_context(context, self.log.info).target(stage.target)
        command = target.command(stage.module, stage.args)
        with (
            ExitStack() as leases,
            ContainerJob(self._runner(), store, claim, command.argv, self.log.info) as container,
        ):
            self._attempt = _Attempt(stage, target, command, claim, container, leases)
            try:
                self.execute_resumable(context)
            finally:
                self._attempt = None

    def _spec(self, context: Context, labels: Mapping[str, str]) -> ContainerSpec:
        """The container of this stage, its GPUs leased."""
        from include.context import gpus_in_use
        from include.host.docker.containers import ContainerSpec
        from include.host.leases import lease

        attempt = self._running
        image = attempt.target.stage_image()
        count = attempt.stage.gpus
        gpus = lease(
            count,
            attempt.target.gpu_ids() if count else (),
            directory=settings().gpu_lease_dir,
            in_use=partial(gpus_in_use, self._runner(), settings().artifacts),
            log=self.log.info,
        )
        argv = (*attempt.command.argv, "--out", str(attempt.claim.partial))
        self.log.info("running %s in %s", shlex.join(argv), image.name)
        return ContainerSpec(
            image=image.name,
            build=image.build,
            argv=argv,
            env=dict(attempt.command.env),
            labels={**labels, **self._owner(context)},
            reads=attempt.stage.reads,
            out=attempt.claim.partial,
            caches=image.caches,
            gpus=attempt.leases.enter_context(gpus),
            shm_bytes=image.shm_bytes,
            ulimits=dict(image.ulimits),
        )

    def _owner(self, context: Context) -> dict[str, str]:
        from include.runners import container_job as labels

        ti = context["ti"]
        return {
            labels.LABEL_DAG: self.dag_id,
            labels.LABEL_RUN: context["run_id"],
            labels.LABEL_TASK: self.task_id,
            labels.LABEL_MAP_INDEX: str(ti.map_index),
            labels.LABEL_ATTEMPT: str(ti.try_number),
        }

    def _runner(self) -> DockerRunner:
        from include.runners.container import DockerRunner

        return DockerRunner(self._connect, self.log.info, registry_login)

    def _connect(self) -> APIClient:
        from docker.errors import DockerException

        from include.host.docker.engine import unreachable

        try:
            return self.hook.api_client
        except (AirflowException, DockerException) as error:
            url = self.docker_url
            raise unreachable(url if isinstance(url, str) else url[0]) from error

    def _sweep(self, store: ArtifactStore) -> None:
        """After a hit: an attempt may have been killed between the result's rename and its container's removal."""
        from include.runners.container_job import sweep

        with suppress(PipelineError):
            sweep(self._runner(), store)
