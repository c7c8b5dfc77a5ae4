"""How a worker starts servers: on which GPUs, and after what."""

from __future__ import annotations

import socket
from collections.abc import Collection
from contextlib import ExitStack
from pathlib import Path

import pytest

from include.context import Context, live_records
from include.errors import HostError, ToolError
from include.host.docker.containers import ContainerSpec
from include.host.ports import free_ports
from include.live import launch
from include.releases.records import Release
from include.settings import Settings
from include.triton import servers
from include.triton.servers import Ports, ServerPlan, ServerRecord
from tests.support.live import Deployment

PLAN = ServerPlan(
    target="played",
    repository=Path("/r"),
    argv=("tritonserver",),
    env={},
    ports=Ports(http=1, grpc=2, metrics=3),
    container=ContainerSpec(image="image"),
    gpus=2,
)


class PlayedTarget:
    """A host with four GPUs; says whose memory was waited for."""

    def __init__(self) -> None:
        self.waited_for: set[str] = set()

    def gpu_ids(self) -> tuple[str, ...]:
        return ("d", "a", "b", "c")

    def wait_for_memory(self, gpus: Collection[str]) -> None:
        self.waited_for = set(gpus)


@pytest.fixture
def target(monkeypatch: pytest.MonkeyPatch) -> PlayedTarget:
    played = PlayedTarget()
    monkeypatch.setattr("include.context.get_target", lambda name, *_: {"played": played}[name])
    return played


@pytest.fixture
def context(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Context:
    live = ServerRecord(plan=PLAN, log=tmp_path / "live.log", gpus=("d",))
    settings = Settings(artifacts=tmp_path, gpu_lease_dir=tmp_path / "leases")
    (tmp_path / "live").mkdir()
    (tmp_path / "live" / "name").symlink_to("../releases/org--name/1")
    monkeypatch.setattr(servers, "look", {live_records(tmp_path)["name"]: live}.get)
    monkeypatch.setattr(launch, "gpus_in_use", lambda containers, artifacts: {"a"})
    return Context(settings=settings, log=print, dag_id="d", run_id="r")


def test_a_server_gets_gpus_in_the_targets_order_and_waits_for_memory_that_is_not_the_live_servers(
    context: Context, target: PlayedTarget
) -> None:
    with launch.leased_gpus(context, PLAN) as leased:
        assert leased == ("d", "b")
        assert target.waited_for == {"b"}


def test_more_gpus_than_the_host_has_are_refused_before_anything_starts(context: Context, target: PlayedTarget) -> None:
    greedy = PLAN.model_copy(update={"gpus": 5})
    with pytest.raises(HostError, match="5 GPUs are needed, this host has 4"), launch.leased_gpus(context, greedy):
        pass
    assert not target.waited_for


class Stolen:
    """A launch whose HTTP or gRPC port is taken by another program ``times`` times; keeps the ports it was given."""

    def __init__(self, stack: ExitStack, times: int, port: str = "grpc") -> None:
        self._stack = stack
        self._times = times
        self._port = port
        self.tried: list[Ports] = []

    def __call__(self, context: Context, plan: ServerPlan, record_path: Path, **_: object) -> ServerRecord:
        self.tried.append(plan.ports)
        if len(self.tried) > self._times:
            return ServerRecord(plan=plan, log=record_path)
        self._stack.enter_context(socket.create_server(("127.0.0.1", getattr(plan.ports, self._port))))
        raise ToolError("the server died as it started: it ended")


def on(ports: Ports) -> ServerPlan:
    return PLAN.model_copy(update={"ports": ports})


def test_a_server_whose_port_was_taken_meanwhile_is_started_on_others(
    context: Context, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with ExitStack() as stack:
        stolen = Stolen(stack, times=2)
        monkeypatch.setattr(launch, "launch", stolen)
        record = launch.launch_on_free_ports(context, on, tmp_path / "server.json", http=4711)
    assert len(stolen.tried) == len({ports.grpc for ports in stolen.tried}) == 3
    assert {ports.http for ports in stolen.tried} == {4711}, "the port that was asked for stays"
    assert record.ports == stolen.tried[-1]


@pytest.mark.parametrize(("times", "tries"), [(3, 3), (9, 3)])
def test_it_is_not_tried_for_ever(
    context: Context, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, times: int, tries: int
) -> None:
    with ExitStack() as stack:
        stolen = Stolen(stack, times)
        monkeypatch.setattr(launch, "launch", stolen)
        with pytest.raises(ToolError, match="died"):
            launch.launch_on_free_ports(context, on, tmp_path / "server.json")
    assert len(stolen.tried) == tries


def test_a_taken_port_that_was_asked_for_is_an_error_at_once(
    context: Context, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with ExitStack() as stack:
        stolen = Stolen(stack, times=1, port="http")
        monkeypatch.setattr(launch, "launch", stolen)
        (port,) = free_ports(1)
        with pytest.raises(ToolError, match="died"):
            launch.launch_on_free_ports(context, on, tmp_path / "server.json", http=port)
    assert len(stolen.tried) == 1


def test_a_release_whose_proved_port_was_taken_meanwhile_is_served_on_others(
    deployment: Deployment, first: Release, monkeypatch: pytest.MonkeyPatch
) -> None:
    deployment.kill_live_server()
    with ExitStack() as stack:
        stolen = Stolen(stack, times=1)
        monkeypatch.setattr("include.live.servers.launch", stolen)
        assert deployment.live().reconcile() == [first]
    assert stolen.tried == [first.server.ports]
    assert deployment.answer() == "un"
    assert not {*deployment.live_server().ports.all} & {first.server.ports.grpc}
