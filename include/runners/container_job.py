"""A container at work on an artifact: found again, taken over or cleared away, whatever happened to its worker.

The artifact's claim is held all the time, so that of all attempts and runs one at most is here. A container says
by its labels which artifact it works on and into which partial directory.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from shutil import rmtree
from types import TracebackType
from typing import Self

from include.artifacts.kind import Kind
from include.artifacts.store import Artifact, ArtifactStore, Claim
from include.errors import PipelineError, TransientError
from include.files import Log
from include.host.docker.containers import Container, ContainerSpec
from include.host.docker.engine import EngineAway
from include.runners.container import DockerRunner

LABEL_STORE = "hf2triton.store"
LABEL_KEY = "hf2triton.key"
LABEL_PARTIAL = "hf2triton.partial"
LABEL_DAG = "hf2triton.dag"
LABEL_RUN = "hf2triton.run"
LABEL_TASK = "hf2triton.task"
LABEL_MAP_INDEX = "hf2triton.map_index"
LABEL_ATTEMPT = "hf2triton.attempt"


class ContainerJob:
    """The making of one artifact by one container. Within the ``with`` block; no container of the artifact, and
    unless it was made no partial directory, is left after it. Only if the engine goes away both stay, for the next
    attempt.
    """

    def __init__(
        self, runner: DockerRunner, store: ArtifactStore, claim: Claim, argv: tuple[str, ...], log: Log
    ) -> None:
        self._runner = runner
        self._store = store
        self._claim = claim
        self._argv = argv
        self._log = log
        self._labels = {LABEL_STORE: str(store.root), LABEL_KEY: claim.name}
        self._stopped = False
        self.found: Container | None = None

    def __enter__(self) -> Self:
        try:
            sweep(self._runner, self._store)
            self.found = self._take_over()
        except PipelineError:
            if not self._claim.resumed:
                self._store.discard(self._claim)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, EngineAway):
            return
        try:
            self._clear()
        except PipelineError as failure:
            self._log(f"the container is left to the next attempt: {failure.what}")
            return
        if self._claim.artifact is None:
            self._store.discard(self._claim)

    def start(self, spec: Callable[[Mapping[str, str]], ContainerSpec]) -> str:
        """Starts a container, unless one was found; returns its id. ``spec`` is given the labels to put on it."""
        if self.found:
            return self.found.id
        container_id = self._runner.create(spec({**self._labels, LABEL_PARTIAL: str(self._claim.partial)}))
        self._check_not_stopped()
        self._runner.start(container_id)
        self._check_not_stopped()
        self._log(f"container {container_id[:12]} started")
        return container_id

    def finish(self, container_id: str) -> Artifact:
        """Waits for the container's end, and takes its result into the store. A second call has nothing to do.

        Raises:
            PipelineError: its program failed, or it was stopped.
        """
        if self._claim.artifact:
            return self._claim.artifact
        try:
            ended = self._runner.follow(container_id)
            if not ended.succeeded:
                raise self._runner.failure_of(ended, self._argv, self._claim.partial)
        except TransientError:
            self._check_not_stopped()
            raise
        return self._claim.commit()

    def stop(self) -> None:
        """Ends the container; whoever waits in `start` or `finish` gets a `TransientError`."""
        self._stopped = True
        self._remove_all()

    def _take_over(self) -> Container | None:
        usable = None
        for container in self._runner.find(self._labels):
            if usable is None and (container.active or container.succeeded):
                usable = container
                continue
            self._log(_obituary(container, self._runner.last_lines(container.id)))
            self._runner.remove(container.id)
        if usable is None:
            self._claim.start_over()
        else:
            self._claim.partial = Path(usable.labels[LABEL_PARTIAL])
            self._log(f"container {usable.id[:12]} of attempt {usable.labels.get(LABEL_ATTEMPT)} is {usable.status}")
        return usable

    def _clear(self) -> None:
        try:
            self._remove_all()
        except EngineAway:
            self._runner.await_engine()
            self._remove_all()

    def _remove_all(self) -> None:
        for container in self._runner.find(self._labels):
            self._runner.remove(container.id)

    def _check_not_stopped(self) -> None:
        if self._stopped:
            raise TransientError("the container was stopped with its task")


def sweep(runner: DockerRunner, store: ArtifactStore) -> None:
    """Removes containers whose partial directory is gone: nobody can take their result any more."""
    for container in runner.find({LABEL_STORE: str(store.root)}):
        partial = container.labels.get(LABEL_PARTIAL)
        if partial and not Path(partial).exists():
            runner.remove(container.id)


def remove_abandoned(runner: DockerRunner, store: ArtifactStore, dag: str, run: str) -> list[str]:
    """Removes what a run has left in the engine and in the store, unless another run waits for it.

    For a run that was cancelled while none of its workers was alive. Returns the removed containers' ids.
    """
    removed = []
    for container in runner.find({LABEL_STORE: str(store.root), LABEL_DAG: dag, LABEL_RUN: run}):
        partial = Path(container.labels[LABEL_PARTIAL])
        with store.if_unclaimed(Kind(partial.parent.name), container.labels[LABEL_KEY]) as unclaimed:
            if unclaimed:
                runner.remove(container.id)
                rmtree(partial, ignore_errors=True)
                removed.append(container.id)
    return removed


def _obituary(container: Container, last_lines: list[str]) -> str:
    attempt = container.labels.get(LABEL_ATTEMPT)
    what = "was never started" if container.status == "created" else f"ended with exit code {container.exit_code}"
    return "\n  ".join([f"container {container.id[:12]} of attempt {attempt} {what}: starting again", *last_lines])
