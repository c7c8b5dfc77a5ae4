"""Promotion and rollback of real Triton servers behind the real proxy, under load from a process of its own."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import pytest

from include.context import Context
from include.host.ports import free_ports
from include.releases.records import Release
from include.settings import Settings
from include.targets import pytriton
from include.triton import repository, servers
from tests.serving.conftest import PYTHON, TEMPLATES, values
from tests.support.live import NAME, Deployment

# Under load, and compared with one another: nothing else may run beside them.
pytestmark = pytest.mark.slow

RUN = "manual__1"


@pytest.fixture
def deployment() -> Iterator[Deployment]:
    root = Path(tempfile.mkdtemp(prefix="swap-"))
    http, grpc, metrics = free_ports(3)
    settings = Settings(
        artifacts=root,
        live_http_port=http,
        live_grpc_port=grpc,
        live_metrics_port=metrics,
        server_logs=root / "logs",
        start_supervisor=False,
    )
    pytriton.prepare(PYTHON)
    one = Deployment(settings, Context)
    yield one
    one.close()
    shutil.rmtree(root)


def release(deployment: Deployment, tiny: Path, *, chat: bool, **request: str) -> Release:
    fill = partial(repository.assemble, TEMPLATES, values(tiny, streaming=False, chat=chat))
    return deployment.release_of(f"chat {chat}", fill, "openvino", **request)


def test_three_models_change_at_once_and_lose_no_request(deployment: Deployment, tiny: Path) -> None:
    names = ("one", "two", "three")
    first = [release(deployment, tiny, chat=False, served_name=name) for name in names]
    second = [release(deployment, tiny, chat=True, served_name=name) for name in names]
    deployment.promote_at_once(first)
    with ExitStack() as loads:
        counted = {name: loads.enter_context(deployment.load(name)) for name in names}
        deployment.promote_at_once(second)
        deployment.promote_at_once(first)
    for counts in counted.values():
        print(f"{sum(counts.values())} requests")
        assert [said for said in counts if said.startswith("failed")] == []
        assert len(counts) > 1, "both releases answered"
    assert deployment.states() == ["live"] * len(names) + ["retired"] * len(names)
    assert len(deployment.serving()) == len(names)


def test_promotion_and_rollback_lose_no_request(deployment: Deployment, tiny: Path) -> None:
    first, second = release(deployment, tiny, chat=False), release(deployment, tiny, chat=True)
    other = release(deployment, tiny, chat=False, served_name="other")
    deployment.live().promote(first)
    deployment.live().promote(other)
    assert 50e6 < servers.memory(deployment.live_server("other")) < 2e9
    candidate = deployment.candidate(second, RUN)
    with deployment.load() as counts, deployment.load("other") as others:
        deployment.live(RUN).promote(second, candidate=candidate)
        deployment.live(RUN).finish_run(NAME)
        deployment.live().promote(first)
    with deployment.load() as later:
        deployment.live().retire("other")
    for counted in (counts, others, later):
        assert [said for said in counted if said.startswith("failed")] == []
        print(f"{sum(counted.values())} requests")
    assert len(counts) > 1, "both releases answered"
    assert len(others) == 1, "and nobody but the other model under its name"
    assert deployment.answer("other") == "HTTP 404"
