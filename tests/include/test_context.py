"""How a worker starts servers: on which GPUs, and after what."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import pytest

from include.context import Context
from include.errors import HostError
from include.settings import Settings
from include.triton import servers
from include.triton.servers import ContainerPlan, Ports, ServerPlan, ServerRecord

PLAN = ServerPlan(
    target="played",
    repository=Path("/r"),
    argv=("tritonserver",),
    env={},
    ports=Ports(http=1, grpc=2, metrics=3),
    container=ContainerPlan(image="image", gpus=2),
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
    monkeypatch.setattr(servers, "find", {servers.live_record(tmp_path): live}.get)
    monkeypatch.setattr(servers, "gpus_in_use", lambda containers, artifacts: {"a"})
    return Context(settings=settings, log=print, dag_id="d", run_id="r")


def test_a_server_gets_gpus_in_the_targets_order_and_waits_for_memory_that_is_not_the_live_servers(
    context: Context, target: PlayedTarget
) -> None:
    with context._gpus(PLAN) as leased:
        assert leased == ("d", "b")
        assert target.waited_for == {"b"}


def test_more_gpus_than_the_host_has_are_refused_before_anything_starts(context: Context, target: PlayedTarget) -> None:
    greedy = PLAN.model_copy(update={"container": PLAN.container.model_copy(update={"gpus": 5})})
    with pytest.raises(HostError, match="5 GPUs are needed, this host has 4"), context._gpus(greedy):
        pass
    assert not target.waited_for


def test_records_stand_beside_each_other(context: Context) -> None:
    assert context.candidate_record.parent == context.live_record.parent == context.settings.artifacts / "servers"
