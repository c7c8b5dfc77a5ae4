"""A stage's container survives its worker, and nothing survives the stage: real engine, real kills."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psutil
import pytest
from filelock import FileLock

from include.artifacts.store import ArtifactStore, key_of
from include.errors import HostError, ToolError, TransientError, UserError
from include.host.docker.engine import local_engine
from include.runners.container import StageContainers
from include.runners.container_job import LABEL_KEY, LABEL_PARTIAL, LABEL_STORE, remove_abandoned
from tests.e2e.attempts import DAG_ID, KIND, Attempt, Worker
from tests.support.engine import BASE, client_or_skip, containers

pytestmark = pytest.mark.docker

ENGINE_SCRIPT = Path(__file__).with_name("docker_engine.sh")

WAIT_THEN_WRITE = """
hostname >> $2/made_by
echo started
until [ -e {gate}/go ]; do sleep 0.05; done
echo written
"""


@dataclass
class Scene:
    """A store, an engine, a gate that holds stage programs back, and the workers so far."""

    root: Path
    workers: list[Worker]

    @property
    def gate(self) -> Path:
        return self.root / "gate"

    @property
    def store(self) -> ArtifactStore:
        return ArtifactStore(self.root / "artifacts")

    @property
    def attempt(self) -> Attempt:
        return Attempt(
            script=WAIT_THEN_WRITE.format(gate=self.gate),
            artifacts=self.store.root,
            reads=self.gate,
        )

    @property
    def retry(self) -> Attempt:
        return replace(self.attempt, number=2)

    def start(self, attempt: Attempt) -> Worker:
        worker = Worker(attempt)
        self.workers.append(worker)
        return worker

    def open_gate(self) -> None:
        (self.gate / "go").touch()

    def containers(self) -> list[str]:
        return containers(client_or_skip(), store=str(self.store.root))

    def partials(self) -> list[Path]:
        return list(self.store.root.glob("*/*.partial-*"))

    def made_by(self) -> str:
        """The one container, by its short id, that has written into the artifact."""
        (container,) = (self.store.get(KIND, key_of({"key": "one"})).path / "made_by").read_text().split()
        return container

    def assert_nothing_is_left(self) -> None:
        assert self.containers() == []
        assert self.partials() == []
        for path in self.store.root.rglob("*.lock"):
            with FileLock(path).acquire(timeout=0):
                pass


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    client_or_skip()
    scene = Scene(tmp_path, [])
    scene.gate.mkdir()
    yield scene
    for number, worker in enumerate(scene.workers):
        worker.kill()
        print(f"worker {number}:", *worker.log, sep="\n  ")
    client = client_or_skip()
    for container in scene.containers():
        client.remove_container(container, force=True)


@pytest.fixture
def client(scene: Scene) -> Any:
    return client_or_skip()


def started(scene: Scene, attempt: Attempt) -> tuple[Worker, str]:
    """A worker whose container is at work, and the container's id."""
    worker = scene.start(attempt)
    worker.wait_for("started")
    (container,) = scene.containers()
    return worker, container


def test_an_undisturbed_attempt_leaves_only_its_artifact(scene: Scene) -> None:
    worker, container = started(scene, scene.attempt)
    scene.open_gate()
    assert worker.result() == {"kind": KIND, "name": key_of({"key": "one"}), "reused": False}
    assert container.startswith(scene.made_by())
    assert worker.log.count("written") == 1
    scene.assert_nothing_is_left()


def test_a_retry_after_a_killed_worker_reattaches(scene: Scene) -> None:
    first, container = started(scene, scene.attempt)
    first.kill()
    assert scene.containers() == [container]
    second = scene.start(scene.retry)
    second.wait_for("started")
    scene.open_gate()
    second.result()
    assert container.startswith(scene.made_by())
    assert [second.log.count(line) for line in ("started", "written")] == [1, 1]
    scene.assert_nothing_is_left()


def test_a_cleared_task_whose_artifact_is_gone_starts_anew(scene: Scene) -> None:
    """Airflow keeps the state of a task that is cleared: only a container that is there is taken over."""
    first, container = started(scene, scene.attempt)
    scene.open_gate()
    first.result()
    shutil.rmtree(scene.store.get(KIND, key_of({"key": "one"})).path)
    second = scene.start(scene.attempt)
    assert second.result()["reused"] is False
    assert not container.startswith(scene.made_by())
    assert [second.log.count(line) for line in ("started", "written")] == [1, 1]
    scene.assert_nothing_is_left()


@pytest.mark.parametrize("line", ["miss: ", "running sh", " started", "written"])
def test_a_worker_may_die_at_any_moment(scene: Scene, line: str) -> None:
    scene.open_gate()
    first = scene.start(replace(scene.attempt, die_at=line))
    first.process.join()
    assert first.process.exitcode == -signal.SIGKILL
    assert scene.start(scene.retry).result()["reused"] is False
    scene.assert_nothing_is_left()


def test_a_container_that_finished_alone_is_only_collected(scene: Scene, client: Any) -> None:
    first, container = started(scene, scene.attempt)
    first.kill()
    scene.open_gate()
    client.wait(container)
    second = scene.start(scene.retry)
    second.result()
    assert container.startswith(scene.made_by())
    assert second.log.count("written") == 1
    scene.assert_nothing_is_left()


def test_a_container_that_died_alone_is_replaced(scene: Scene, client: Any) -> None:
    first, container = started(scene, scene.attempt)
    first.kill()
    client.kill(container)
    client.wait(container)
    (partial,) = scene.partials()
    scene.open_gate()
    second = scene.start(scene.retry)
    second.result()
    assert not container.startswith(scene.made_by())
    assert "of attempt 1 ended with exit code 137" in "\n".join(second.log)
    assert not partial.exists()
    scene.assert_nothing_is_left()


def test_a_container_that_was_never_started_is_replaced(scene: Scene, client: Any) -> None:
    first, _ = started(scene, replace(scene.attempt, key="another"))
    partial = scene.store.root / KIND / f"{key_of({'key': 'one'})}.partial-0"
    partial.mkdir()
    labels = {LABEL_STORE: str(scene.store.root), LABEL_KEY: key_of({"key": "one"}), LABEL_PARTIAL: str(partial)}
    client.create_container(BASE, ["true"], labels=labels)
    scene.open_gate()
    second = scene.start(scene.retry)
    second.result()
    assert "was never started" in "\n".join(second.log)
    first.result()
    scene.assert_nothing_is_left()


def test_a_host_without_a_gpu_driver_is_told_what_to_install(scene: Scene) -> None:
    worker = scene.start(replace(scene.attempt, gpus=1, gpu_driver="no-such-driver"))
    with pytest.raises(HostError, match="no NVIDIA runtime") as raised:
        worker.result()
    assert "NVIDIA Container Toolkit" in raised.value.fix
    scene.assert_nothing_is_left()


def test_a_cancelled_task_takes_its_container_along(scene: Scene) -> None:
    worker, _ = started(scene, scene.attempt)
    worker.cancel()
    with pytest.raises(TransientError, match="stopped with its task"):
        worker.result()
    scene.assert_nothing_is_left()


def test_a_run_that_is_cancelled_between_attempts_can_be_cleared(scene: Scene) -> None:
    worker, container = started(scene, scene.attempt)
    runner = StageContainers(local_engine, print)
    assert remove_abandoned(runner, scene.store, DAG_ID, "run-1") == [], "a worker waits for it"
    worker.kill()
    assert remove_abandoned(runner, scene.store, DAG_ID, "run-2") == [], "another run's"
    assert remove_abandoned(runner, scene.store, DAG_ID, "run-1") == [container]
    scene.assert_nothing_is_left()


@pytest.mark.parametrize("survives", [True, False], ids=["both live", "the first is killed"])
def test_two_runs_with_one_key_share_one_container(scene: Scene, survives: bool) -> None:
    first, container = started(scene, scene.attempt)
    second = scene.start(replace(scene.attempt, run="run-2"))
    second.wait_for("another run is building")
    assert scene.containers() == [container]
    if not survives:
        first.kill()
    scene.open_gate()
    assert second.result()["reused"] is survives
    if survives:
        assert first.result()["reused"] is False
    assert container.startswith(scene.made_by())
    scene.assert_nothing_is_left()


def test_a_result_counts_only_for_the_key_it_was_made_for(scene: Scene) -> None:
    first, container = started(scene, scene.attempt)
    first.kill()
    scene.open_gate()
    second = scene.start(replace(scene.retry, key="changed code"))
    assert second.result()["name"] == key_of({"key": "changed code"})
    assert scene.containers() == [container], "it belongs to the other key"
    third = scene.start(scene.retry)
    third.result()
    assert container.startswith(scene.made_by())
    scene.assert_nothing_is_left()


def test_another_store_on_the_same_engine_has_its_own_containers(scene: Scene) -> None:
    other = Scene(scene.root / "other", scene.workers)
    other.gate.mkdir(parents=True)
    _, container = started(scene, scene.attempt)
    scene.open_gate()
    second, others = started(other, other.attempt)
    other.open_gate()
    second.result()
    assert others.startswith(other.made_by())
    scene.workers[0].result()
    assert container.startswith(scene.made_by())
    for each in (scene, other):
        each.assert_nothing_is_left()


def test_a_worker_killed_after_the_rename_leaves_work_for_the_next(scene: Scene, client: Any) -> None:
    worker, _ = started(scene, scene.attempt)
    scene.open_gate()
    worker.result()
    gone = scene.store.root / KIND / f"{key_of({'key': 'one'})}.partial-0"
    labels = {LABEL_STORE: str(scene.store.root), LABEL_KEY: key_of({"key": "one"}), LABEL_PARTIAL: str(gone)}
    client.create_container(BASE, ["true"], labels=labels)
    assert scene.start(scene.retry).result()["reused"] is True
    scene.assert_nothing_is_left()


@pytest.mark.parametrize(
    ("script", "failure", "match"),
    [
        ("echo the cause >&2; exit 3", ToolError, "the cause"),
        ("exit 137", HostError, "OOM"),
        (
            """echo '{"class": "UserError", "what": "no partial blocks", "where": "", "fix": ""}' > $2/failure.json
            exit 64""",
            UserError,
            "no partial blocks",
        ),
    ],
    ids=["exit code", "killed", "described"],
)
def test_a_program_that_fails_leaves_nothing(scene: Scene, script: str, failure: type[Exception], match: str) -> None:
    with pytest.raises(failure, match=match):
        scene.start(replace(scene.attempt, script=script)).result()
    scene.assert_nothing_is_left()


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"engine": "unix:///nonexistent/docker.sock"}, "no Docker engine"),
        ({"image": "registry.invalid/org/image:1"}, "cannot be pulled"),
    ],
    ids=["no engine", "no image"],
)
def test_a_host_that_cannot_start_anything_keeps_nothing(scene: Scene, change: dict[str, str], match: str) -> None:
    with pytest.raises(HostError, match=match) as raised:
        scene.start(replace(scene.attempt, **change)).result()
    assert raised.value.fix
    scene.assert_nothing_is_left()


def test_a_hit_needs_no_engine(scene: Scene) -> None:
    scene.open_gate()
    scene.start(scene.attempt).result()
    assert scene.start(replace(scene.retry, engine="unix:///nonexistent/docker.sock")).result()["reused"] is True


def test_runs_never_share_a_gpu_even_if_a_worker_dies(scene: Scene, client: Any) -> None:
    if not gpus_are_accepted(client):
        pytest.skip("this engine accepts no device request")
    first, container = started(scene, replace(scene.attempt, gpus=1))
    first.kill()
    pair = scene.start(replace(scene.attempt, key="pair", run="run-2", gpus=2))
    pair.wait_for("waiting for 2 of")
    second = scene.start(replace(scene.retry, gpus=1))
    second.wait_for("started")
    assert [c for c in scene.containers() if c != container] == []
    scene.open_gate()
    second.result()
    assert pair.wait_for("GPUs leased") == "GPUs leased: 0, 1"
    pair.result()
    scene.assert_nothing_is_left()


def gpus_are_accepted(client: Any) -> bool:
    from docker.errors import APIError
    from docker.types import DeviceRequest

    request = DeviceRequest(device_ids=["0"], capabilities=[["gpu"]])
    config = client.create_host_config(device_requests=[request])
    container = client.create_container(BASE, ["true"], host_config=config)["Id"]
    try:
        client.start(container)
    except APIError:
        return False
    finally:
        client.remove_container(container, force=True)
    return True


# Restarts of the engine: only of one that is there for tests.


class Engine:
    """The engine that docker_engine.sh started."""

    def __init__(self, pid: int) -> None:
        self._pid = pid

    def stop(self) -> None:
        _engine_script("stop")

    def crash(self) -> None:
        process = psutil.Process(self._pid)
        process.kill()
        process.wait()

    def start(self, *flags: str) -> None:
        _engine_script("start", flags)


@pytest.fixture
def engine(scene: Scene) -> Iterator[Engine]:
    try:
        pid = _engine_script("pid")
    except subprocess.CalledProcessError:
        pytest.skip("the engine was not started for these tests")
    engine = Engine(int(pid))
    yield engine
    engine.stop()
    engine.start()


def _engine_script(verb: str, flags: tuple[str, ...] = ()) -> str:
    environment = {**os.environ, "HF2TRITON_DOCKERD_FLAGS": " ".join(flags)}
    return subprocess.run([ENGINE_SCRIPT, verb], env=environment, check=True, stdout=subprocess.PIPE, text=True).stdout


def test_an_engine_that_restarts_costs_one_attempt(scene: Scene, engine: Engine) -> None:
    first, container = started(scene, scene.attempt)
    engine.stop()
    engine.start()
    with pytest.raises(TransientError, match=r"restarted|stopped from outside"):
        first.result()
    scene.assert_nothing_is_left()
    scene.open_gate()
    scene.start(scene.retry).result()
    assert not container.startswith(scene.made_by())
    scene.assert_nothing_is_left()


def test_an_engine_that_stays_away_leaves_the_rest_to_the_next_attempt(scene: Scene, engine: Engine) -> None:
    first, container = started(scene, replace(scene.attempt, engine_wait_s=0))
    engine.crash()
    with pytest.raises(TransientError, match="does not answer"):
        first.result()
    (partial,) = scene.partials()
    engine.start()
    assert scene.containers() == [container]
    scene.open_gate()
    scene.start(scene.retry).result()
    assert not partial.exists()
    scene.assert_nothing_is_left()


def test_an_engine_that_keeps_containers_alive_costs_nothing(scene: Scene, engine: Engine) -> None:
    engine.stop()
    engine.start("--live-restore")
    worker, container = started(scene, scene.attempt)
    engine.stop()
    engine.start("--live-restore")
    scene.open_gate()
    worker.result()
    assert container.startswith(scene.made_by())
    assert [worker.log.count(line) for line in ("started", "written")] == [1, 1]
    scene.assert_nothing_is_left()
