"""The supervisor and a real Docker engine, which restarts some of what dies by itself."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psutil
import pytest

from include.host.docker.containers import ContainerSpec
from include.host.ports import free_ports
from include.live.supervise import NAME, Supervision
from include.releases.records import Outage
from include.settings import Settings
from include.targets.base import Target
from include.targets.openvino import image
from include.triton.servers import Ports, ServerPlan
from tests.support.engine import client_with_image_or_skip, none_left
from tests.support.live import HERE, Deployment, StandInTarget, StandInWorker
from tests.support.live import NAME as SERVED
from tests.support.wait import wait_for

pytestmark = pytest.mark.docker


class BoxedTarget(StandInTarget):
    """Serves the stand-in from the openvino target's image, which has a Python."""

    def server(self, repository: Path, ports: Ports) -> ServerPlan:
        box = ContainerSpec(image=image.image(), reads=(repository, HERE), network="host")
        argv = ("/opt/venv/bin/python", *super().server(repository, ports).argv[1:])
        return super().server(repository, ports).model_copy(update={"argv": argv, "container": box})


class BoxedWorker(StandInWorker):
    def target(self, name: str) -> Target:
        return BoxedTarget()


@pytest.fixture(scope="module")
def client() -> Any:
    return client_with_image_or_skip()


@pytest.fixture
def boxed(client: Any, short_path: Path) -> Iterator[Deployment]:
    """A deployment with a live release; none of its containers is left at the end."""
    http, grpc, metrics = free_ports(3)
    settings = Settings(
        artifacts=short_path,
        runner="docker",
        live_http_port=http,
        live_grpc_port=grpc,
        live_metrics_port=metrics,
        server_logs=short_path / "logs",
        start_supervisor=False,
    )
    one = Deployment(settings, BoxedWorker)
    with none_left(client, short_path):
        one.live().promote(one.release("un"))
        yield one
        one.live().stop()


def container_of(deployment: Deployment) -> str:
    return deployment.live_server().container_id


def outage_of(deployment: Deployment) -> Outage | None:
    return next(iter(deployment.releases.live().outages[-1:]), None)


def ended(deployment: Deployment, supervision: Supervision) -> Outage:
    """The outage that the supervisor sees begin and end."""

    def look() -> Outage | None:
        supervision.step(SERVED, 0)
        found = outage_of(deployment)
        return found if found and found.until else None

    return wait_for(look, "the end of the outage", every_s=0.2)


def test_a_server_whose_container_is_killed_gets_another(client: Any, boxed: Deployment) -> None:
    supervision = Supervision(boxed.context(NAME))
    supervision.step(SERVED, 0)
    killed = container_of(boxed)
    client.kill(killed)
    outage = ended(boxed, supervision)
    assert outage.ended_by == NAME
    assert "it was killed" in outage.cause
    assert container_of(boxed) != killed
    assert boxed.answer() == "un"


def test_a_server_that_the_engine_starts_again_is_waited_for(client: Any, boxed: Deployment) -> None:
    supervision = Supervision(boxed.context(NAME))
    supervision.step(SERVED, 0)
    before = container_of(boxed)
    loading = boxed.settings.artifacts / "repositories" / boxed.releases.live().repository / "unready"
    loading.touch()
    program = client.inspect_container(before)["State"]["Pid"]
    psutil.Process(program).kill()
    wait_for(lambda: client.inspect_container(before)["State"]["Pid"] not in {0, program}, "the engine's restart")

    def seen() -> Outage | None:
        supervision.step(SERVED, 0)
        return outage_of(boxed)

    outage = wait_for(seen, "the outage", every_s=0.2)
    assert "it was killed" in outage.cause
    assert outage.until is None
    loading.unlink()
    assert ended(boxed, supervision).ended_by == "itself"
    assert container_of(boxed) == before
    assert boxed.answer() == "un"


def test_a_killed_proxy_gets_another_container(client: Any, boxed: Deployment) -> None:
    supervision = Supervision(boxed.context(NAME))
    root = boxed.settings.artifacts / "servers" / "proxy"
    (proxy,) = client.containers(filters={"label": f"hf2triton.proxy={root}"})
    client.kill(proxy["Id"])
    outage = ended(boxed, supervision)
    assert outage.cause.startswith("the proxy ended: it was killed")
    assert boxed.answer() == "un"


def test_three_models_in_containers_change_at_once_and_lose_no_request(boxed: Deployment) -> None:
    models = ("two", "three", "four")
    first, second = (
        [boxed.release(f"{model} {number}", model=f"org--{model}") for model in models] for number in (1, 2)
    )
    boxed.promote_at_once(first)
    with ExitStack() as loads:
        counted = {model: loads.enter_context(boxed.load(model)) for model in (*models, SERVED)}
        boxed.promote_at_once(second)
        boxed.promote_at_once(first)
    print(f"{sum(sum(counts.values()) for counts in counted.values())} requests")
    assert {model: set(counts) for model, counts in counted.items()} == {
        **{model: {f"{model} 1", f"{model} 2"} for model in models},
        SERVED: {"un"},
    }
    assert len(boxed.serving()) == len(counted)
