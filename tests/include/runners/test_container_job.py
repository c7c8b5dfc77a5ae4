"""The docker runner with an engine that is played; tests/e2e/test_docker_survival.py has a real one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from include.artifacts.store import ArtifactStore
from include.errors import Ended, HostError, PipelineError, ToolError, TransientError
from include.host.docker.containers import Container, ContainerSpec
from include.host.docker.engine import EngineAway
from include.runners.container import StageContainers
from include.runners.container_job import LABEL_ATTEMPT, LABEL_KEY, LABEL_PARTIAL, LABEL_STORE, ContainerRunner
from include.runners.job import Command, StageJob

JOB = StageJob(target="played", kind="engines", module="stage", args=(), reads=(), inputs={"is": "made up"})


class Engine(StageContainers):
    """Containers as plain data. A started one writes its artifact; ``failure`` is raised instead of an end."""

    def __init__(self) -> None:
        super().__init__(self._no_client, print)
        self.containers: dict[str, Container] = {}
        self.specs: list[ContainerSpec] = []
        self.failure: PipelineError | None = None
        self.exit_code = 0

    def _no_client(self) -> None:
        raise AssertionError("the engine is played")

    def create(self, spec: ContainerSpec) -> str:
        name = f"container-{len(self.specs)}"
        self.specs.append(spec)
        self.containers[name] = Container(name, "created", 0, False, 0, spec.labels)
        return name

    def start(self, container_id: str) -> None:
        self.containers[container_id] = replace(self.containers[container_id], status="running")

    def follow(self, container_id: str) -> Container:
        if self.failure:
            raise self.failure
        found = self.containers[container_id]
        (Path(found.labels[LABEL_PARTIAL]) / "engine").write_text(container_id)
        return replace(found, status="exited", exit_code=self.exit_code)

    def find(self, labels: Mapping[str, str]) -> list[Container]:
        return [found for found in self.containers.values() if labels.items() <= found.labels.items()]

    def remove(self, container_id: str) -> None:
        self.containers.pop(container_id, None)

    def last_lines(self, container_id: str) -> list[str]:
        return ["its last line"]

    def await_engine(self) -> None:
        pass


class Target:
    """A target that has no GPU."""

    def command(self, module: str, args: tuple[str, ...]) -> Command:
        return Command((module, *args), {"LEVEL": "3"})

    def stage_image(self) -> ContainerSpec:
        return ContainerSpec(image="played:1", build="make it", shm_bytes=7)

    def gpu_ids(self) -> tuple[str, ...]:
        raise AssertionError("no GPU is asked for")


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore(tmp_path)


@pytest.fixture
def engine() -> Engine:
    return Engine()


def attempt(engine: Engine, store: ArtifactStore, number: int = 1) -> ContainerRunner:
    owner = {LABEL_ATTEMPT: str(number)}
    return ContainerRunner(engine, store, lambda name: Target(), set, store.root / "leases", owner, print)


def make(runner: ContainerRunner, store: ArtifactStore) -> str:
    """Which container has made the artifact."""
    with store.claim(JOB.kind, JOB.inputs, log=print, resume=runner.resumes) as claim:
        runner.run(JOB, claim)
    return (store.get(JOB.kind, claim.name).path / "engine").read_text()


def partials(store: ArtifactStore) -> list[Path]:
    return list(store.root.glob("*/*.partial-*"))


def test_the_target_s_description_is_completed_for_the_job(engine: Engine, store: ArtifactStore) -> None:
    make(attempt(engine, store), store)
    (spec,) = engine.specs
    assert (spec.image, spec.build, spec.shm_bytes, spec.env) == ("played:1", "make it", 7, {"LEVEL": "3"})
    assert spec.argv == ("stage", "--out", str(spec.out))
    assert spec.labels.keys() == {LABEL_STORE, LABEL_KEY, LABEL_PARTIAL, LABEL_ATTEMPT}
    assert (engine.containers, partials(store)) == ({}, [])


def test_an_artifact_that_is_there_starts_nothing_and_clears_what_was_left(
    engine: Engine, store: ArtifactStore
) -> None:
    make(attempt(engine, store), store)
    gone = {LABEL_STORE: str(store.root), LABEL_PARTIAL: str(store.root / "gone")}
    engine.containers["left"] = Container("left", "exited", 0, False, 0, gone)
    assert make(attempt(engine, store, 2), store) == "container-0"
    assert (len(engine.specs), engine.containers) == (1, {})


def test_a_lost_attempt_s_container_is_taken_over(engine: Engine, store: ArtifactStore) -> None:
    engine.failure = EngineAway("away")
    with pytest.raises(EngineAway):
        make(attempt(engine, store), store)
    assert (list(engine.containers), len(partials(store))) == (["container-0"], 1)
    engine.failure = None
    assert make(attempt(engine, store, 2), store) == "container-0"
    assert (engine.containers, partials(store)) == ({}, [])


def test_a_cleared_task_whose_container_is_gone_starts_anew(engine: Engine, store: ArtifactStore) -> None:
    engine.failure = EngineAway("away")
    with pytest.raises(EngineAway):
        make(attempt(engine, store), store)
    engine.containers.clear()
    engine.failure = None
    assert make(attempt(engine, store), store) == "container-1"
    assert (engine.containers, partials(store)) == ({}, [])


def test_a_container_that_has_failed_alone_is_replaced(engine: Engine, store: ArtifactStore) -> None:
    engine.failure = EngineAway("away")
    with pytest.raises(EngineAway):
        make(attempt(engine, store), store)
    engine.containers["container-0"] = replace(engine.containers["container-0"], status="exited", exit_code=1)
    engine.failure = None
    assert make(attempt(engine, store, 2), store) == "container-1"


@pytest.mark.parametrize("failure", [ToolError, HostError, TransientError])
def test_a_failure_leaves_nothing(engine: Engine, store: ArtifactStore, failure: type[PipelineError]) -> None:
    engine.failure = failure("x")
    with pytest.raises(failure):
        make(attempt(engine, store), store)
    assert (engine.containers, partials(store)) == ({}, [])


def test_a_runner_that_is_stopped_says_so_and_leaves_nothing(engine: Engine, store: ArtifactStore) -> None:
    runner = attempt(engine, store)
    runner.stop()
    with pytest.raises(Ended, match="stopped with its task"):
        make(runner, store)
    assert (engine.containers, partials(store)) == ({}, [])


@pytest.mark.parametrize("failure", [TransientError("gone"), HostError("killed: (OOM)"), ToolError("143")])
def test_a_stop_while_the_container_runs_is_no_failure_of_its_program(
    engine: Engine, store: ArtifactStore, failure: PipelineError
) -> None:
    runner = attempt(engine, store)

    def follow(container_id: str) -> Container:
        runner.stop()
        raise failure

    engine.follow = follow  # type: ignore[method-assign]
    with pytest.raises(Ended):
        make(runner, store)
    assert (engine.containers, partials(store)) == ({}, [])
