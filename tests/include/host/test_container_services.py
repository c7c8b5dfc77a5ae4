"""Services in containers, against an engine that keeps its containers in memory; a real one is in the docker tier."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from include.host.docker.containers import Container, ContainerSpec
from include.host.services import ServiceRecord, ServiceSpec, find, last_lines, read
from include.host.services.container import ContainerBackend
from include.live.proxy import envoy
from include.live.proxy.config import Files
from include.live.proxy.envoy import LABEL_PROXY, Envoy, ProxyRecord

LABEL = "some.label"
SPEC = ServiceSpec(argv=("serve",), env={"A": "b"}, container=ContainerSpec(image="image", network="host"))


class Engine:
    """The calls of `Containers` that a service needs."""

    def __init__(self) -> None:
        self.made: dict[str, tuple[ContainerSpec, str, int]] = {}
        self.kept: list[str] = []
        self.codes: list[int] = []

    def create(self, spec: ContainerSpec) -> str:
        name = f"container-{len(self.made)}"
        self.made[name] = (spec, "created", 0)
        return name

    def start(self, container_id: str) -> None:
        self.turn(container_id, "running")

    def turn(self, container_id: str, status: str, exit_code: int = 0) -> None:
        self.made[container_id] = (self.made[container_id][0], status, exit_code)

    def find(self, labels: Mapping[str, str]) -> list[Container]:
        return [
            Container(name, status, code, oom_killed=False, started_at=1, labels=spec.labels)
            for name, (spec, status, code) in self.made.items()
            if labels.items() <= spec.labels.items()
        ]

    def exit_codes(self, container_id: str, since: float) -> list[int]:
        return self.codes

    def restart_always(self, container_id: str) -> None:
        self.kept.append(container_id)

    def save_log(self, container_id: str, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"said by {container_id}\n")

    def stop(self, container_id: str, grace_s: float) -> None:
        self.turn(container_id, "exited")

    def remove(self, container_id: str) -> None:
        del self.made[container_id]


@pytest.fixture
def engine() -> Engine:
    return Engine()


@pytest.fixture
def backend(engine: Engine) -> ContainerBackend:
    return ContainerBackend(LABEL, engine)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "service.json"


@pytest.fixture
def record(backend: ContainerBackend, path: Path) -> ServiceRecord:
    return backend.start(SPEC, ServiceRecord(log=path.with_suffix(".log"), gpus=("g",)), path)


def test_one_that_was_started_is_found_by_its_record(
    engine: Engine, backend: ContainerBackend, record: ServiceRecord, path: Path
) -> None:
    assert find(path, ServiceRecord, backend) == record
    assert backend.is_up(record, 1)
    assert backend.why_gone(record) is None
    (spec, _, _) = engine.made[record.container_id]
    assert (spec.argv, spec.env, spec.gpus) == (("serve",), {"A": "b"}, ("g",))
    assert spec.labels == {LABEL: record.token}
    assert spec.log_options["max-size"]


def test_a_starter_killed_before_it_knew_the_container_leaves_a_findable_one(
    backend: ContainerBackend, record: ServiceRecord, path: Path
) -> None:
    path.write_text(record.model_copy(update={"container_id": ""}).model_dump_json())
    assert find(path, ServiceRecord, backend) == record


@pytest.mark.parametrize(("code", "why"), [(1, "exit code 1"), (137, "it was killed, most likely .* memory")])
def test_one_that_ended_says_how_and_leaves_only_its_log(
    engine: Engine, backend: ContainerBackend, record: ServiceRecord, path: Path, code: int, why: str
) -> None:
    engine.turn(record.container_id, "exited", code)
    assert not backend.is_up(record, 1)
    with pytest.raises(RuntimeError, match=why):
        raise RuntimeError(backend.why_gone(record))
    assert find(path, ServiceRecord, backend) is None
    assert not engine.made
    assert not path.exists()
    assert last_lines(record.log) == f"said by {record.container_id}"
    assert backend.why_gone(record) == "its container was removed"


def test_one_that_the_engine_started_again_says_how_it_ended(
    engine: Engine, backend: ContainerBackend, record: ServiceRecord
) -> None:
    assert backend.why_restarted(record, since=1) is None
    assert backend.why_restarted(record, since=0) == "it ended; the engine started it again"
    engine.codes = [1, 139]
    assert backend.why_restarted(record, since=0) == "exit code 139; the engine started it again"
    engine.turn(record.container_id, "restarting", 139)
    assert backend.why_gone(record) == "exit code 139"


def test_only_one_that_is_ready_comes_back_with_its_host(
    engine: Engine, backend: ContainerBackend, record: ServiceRecord
) -> None:
    assert not engine.kept
    backend.keep_across_restarts(record)
    assert engine.kept == [record.container_id]


@pytest.fixture
def proxy(engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Envoy:
    monkeypatch.setattr(envoy, "_EnvoyContainers", lambda connect, log: engine)
    return Envoy(Files(tmp_path / "servers" / "proxy"), print, "image", "make image")


def test_envoy_is_one_container_with_its_files(engine: Engine, proxy: Envoy, tmp_path: Path) -> None:
    assert proxy.find() is None
    proxy.start(("--flag",), "digest-1")
    proxy.start(("--flag",), "digest-2")
    ((spec, _, _),) = engine.made.values()
    assert proxy.find() == "digest-2"
    files = Files(tmp_path / "servers" / "proxy")
    assert (spec.reads, spec.caches, spec.network) == ((files.config,), (files.run,), "host")
    assert (spec.argv[-1], spec.build, spec.log_options["max-size"]) == ("--flag", "make image", "16m")
    proxy.keep_across_restarts()
    assert engine.kept
    proxy.stop()
    assert not engine.made
    assert proxy.last_lines().startswith("said by")


def test_an_envoy_that_an_earlier_version_started_without_a_record_is_found(
    engine: Engine, proxy: Envoy, tmp_path: Path
) -> None:
    labels = {LABEL_PROXY: str(tmp_path / "servers" / "proxy"), "hf2triton.proxy.digest": "digest-0"}
    engine.start(engine.create(ContainerSpec(image="image", labels=labels)))
    assert read(tmp_path / "servers" / "proxy.json", ProxyRecord) is None
    assert proxy.find() == "digest-0"
    proxy.keep_across_restarts()
    assert engine.kept == ["container-0"]
    proxy.stop()
    assert not engine.made
