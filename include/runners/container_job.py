"""The docker runner: a container that makes an artifact, found again by its labels even if its worker died.

The artifact's claim is held all the time, so at most one attempt of one run is in this code. A container's labels
name the artifact that it makes and its partial directory.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from shutil import rmtree
from typing import ClassVar

from include.artifacts.kind import Kind
from include.artifacts.store import ArtifactStore, Claim
from include.errors import Ended, PipelineError
from include.files import Log
from include.host.docker.containers import Container
from include.host.docker.engine import EngineAway
from include.host.leases import lease
from include.runners.container import StageContainers
from include.runners.job import Command, FindTarget, StageJob, StageTarget

LABEL_STORE = "hf2triton.store"
LABEL_KEY = "hf2triton.key"
LABEL_PARTIAL = "hf2triton.partial"
LABEL_DAG = "hf2triton.dag"
LABEL_RUN = "hf2triton.run"
LABEL_TASK = "hf2triton.task"
LABEL_MAP_INDEX = "hf2triton.map_index"
LABEL_ATTEMPT = "hf2triton.attempt"


@dataclass
class ContainerRunner:
    """The `Runner` that starts a container, or follows the one that makes the artifact already.

    `run` leaves no container of the artifact, and no partial directory if it failed. Only if the engine stops
    answering, both stay for the next attempt. ``gpus_in_use`` gives the device ids that must not be leased;
    ``owner`` are labels that name the task's attempt.
    """

    resumes: ClassVar[bool] = True
    containers: StageContainers
    store: ArtifactStore
    find_target: FindTarget
    gpus_in_use: Callable[[], Collection[str]]
    lease_dir: Path
    owner: Mapping[str, str]
    log: Log
    _labels: dict[str, str] = field(default_factory=dict, init=False)
    _stopped: bool = field(default=False, init=False)

    def run(self, job: StageJob, claim: Claim) -> None:
        """Makes the claim's artifact; if the store has it already, starts nothing."""
        if claim.hit:
            # An attempt may have been killed between the result's rename and its container's removal.
            with suppress(PipelineError):
                sweep(self.containers, self.store)
            return
        target = self.find_target(job.target)
        command = target.command(job.module, job.args)
        self._labels = {LABEL_STORE: str(self.store.root), LABEL_KEY: claim.name}
        found = self._take_over(claim)
        with ExitStack() as leases, self._clearing(claim):
            try:
                container_id = found.id if found else self._start(job, claim, target, command, leases)
                self._finish(container_id, command.argv, claim)
            except PipelineError:
                self._check_not_stopped()
                raise

    def stop(self) -> None:
        """Removes the container; then `run` raises `Ended`."""
        self._stopped = True
        if self._labels:
            self._remove_all()

    def _take_over(self, claim: Claim) -> Container | None:
        """The container that makes the artifact, or has made it. Other containers of the artifact are removed."""
        usable = None
        try:
            sweep(self.containers, self.store)
            for container in self.containers.find(self._labels):
                if usable is None and (container.active or container.succeeded):
                    usable = container
                    continue
                self.log(_obituary(container, self.containers.last_lines(container.id)))
                self.containers.remove(container.id)
        except PipelineError:
            if not claim.resumed:
                self.store.discard(claim)
            raise
        if usable is None:
            claim.start_over()
        else:
            claim.partial = Path(usable.labels[LABEL_PARTIAL])
            self.log(f"container {usable.id[:12]} of attempt {usable.labels.get(LABEL_ATTEMPT)} is {usable.status}")
        return usable

    def _start(self, job: StageJob, claim: Claim, target: StageTarget, command: Command, leases: ExitStack) -> str:
        """Starts a container on GPUs that ``leases`` holds; returns its id."""
        gpus = lease(
            job.gpus,
            target.gpu_ids() if job.gpus else (),
            directory=self.lease_dir,
            in_use=self.gpus_in_use,
            log=self.log,
        )
        image = target.stage_image()
        fields = {
            "argv": (*command.argv, "--out", str(claim.partial)),
            "env": dict(command.env),
            "labels": {**self.owner, **self._labels, LABEL_PARTIAL: str(claim.partial)},
            "reads": (*image.reads, *job.reads),
            "out": claim.partial,
            "gpus": leases.enter_context(gpus),
        }
        spec = image.model_copy(update=fields)
        self.log(f"running {shlex.join(spec.argv)} in {spec.image}")
        container_id = self.containers.create(spec)
        self._check_not_stopped()
        self.containers.start(container_id)
        self._check_not_stopped()
        self.log(f"container {container_id[:12]} started")
        return container_id

    def _finish(self, container_id: str, argv: tuple[str, ...], claim: Claim) -> None:
        """Waits until the container ends, and takes its result into the store."""
        ended = self.containers.follow(container_id)
        if not ended.succeeded:
            raise self.containers.failure_of(ended, argv, claim.partial)
        claim.commit()

    @contextmanager
    def _clearing(self, claim: Claim) -> Iterator[None]:
        """Removes the remains after the block, also after an error, unless the engine does not answer."""
        try:
            yield
        except EngineAway:
            raise
        except BaseException:
            self._clear(claim)
            raise
        self._clear(claim)

    def _clear(self, claim: Claim) -> None:
        try:
            try:
                self._remove_all()
            except EngineAway:
                self.containers.await_engine()
                self._remove_all()
        except PipelineError as failure:
            self.log(f"the container is left to the next attempt: {failure.what}")
            return
        if claim.artifact is None:
            self.store.discard(claim)

    def _remove_all(self) -> None:
        for container in self.containers.find(self._labels):
            self.containers.remove(container.id)

    def _check_not_stopped(self) -> None:
        if self._stopped:
            raise Ended


def sweep(containers: StageContainers, store: ArtifactStore) -> None:
    """Removes containers whose partial directory is gone: their results can no longer be used."""
    for container in containers.find({LABEL_STORE: str(store.root)}):
        directory = container.labels.get(LABEL_PARTIAL)
        if directory and not Path(directory).exists():
            containers.remove(container.id)


def remove_abandoned(containers: StageContainers, store: ArtifactStore, dag: str, run: str) -> list[str]:
    """Removes a run's containers and partial directories, unless another run waits for them.

    It is for a run that was cancelled while none of its workers was alive. Returns the removed containers' ids.
    """
    removed = []
    for container in containers.find({LABEL_STORE: str(store.root), LABEL_DAG: dag, LABEL_RUN: run}):
        directory = Path(container.labels[LABEL_PARTIAL])
        with store.if_unclaimed(Kind(directory.parent.name), container.labels[LABEL_KEY]) as unclaimed:
            if unclaimed:
                containers.remove(container.id)
                rmtree(directory, ignore_errors=True)
                removed.append(container.id)
    return removed


def _obituary(container: Container, last_lines: list[str]) -> str:
    attempt = container.labels.get(LABEL_ATTEMPT)
    what = "was never started" if container.status == "created" else f"ended with exit code {container.exit_code}"
    return "\n  ".join([f"container {container.id[:12]} of attempt {attempt} {what}: starting again", *last_lines])
