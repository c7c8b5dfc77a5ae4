"""Promotion and rollback of real Triton servers behind the real proxy, under load from a process of its own."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from include.context import Context
from include.host.ports import free_ports
from include.releases.records import Release
from include.settings import Settings
from include.targets import pytriton
from include.triton import repository
from tests.serving.conftest import PYTHON, TEMPLATES, values
from tests.support.live import Deployment

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


def release(deployment: Deployment, tiny: Path, *, chat: bool) -> Release:
    fill = partial(repository.assemble, TEMPLATES, values(tiny, streaming=False, chat=chat))
    return deployment.release_of(f"chat {chat}", fill, "openvino")


def test_promotion_and_rollback_lose_no_request(deployment: Deployment, tiny: Path) -> None:
    first, second = release(deployment, tiny, chat=False), release(deployment, tiny, chat=True)
    deployment.live().promote(first)
    candidate = deployment.candidate(second, RUN)
    with deployment.load() as counts:
        deployment.live(RUN).promote(second, candidate=candidate)
        deployment.live(RUN).finish_run(deployment.releases.default_name())
        deployment.live().promote(first)
    failed = {said: number for said, number in counts.items() if said.startswith("failed")}
    assert failed == {}
    assert len(counts) > 1, "both releases answered"
    print(f"{sum(counts.values())} requests")
