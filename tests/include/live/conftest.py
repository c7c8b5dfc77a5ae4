from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from include.host.ports import free_ports
from include.releases.records import Release
from include.settings import Settings
from tests.support.live import Deployment


@pytest.fixture
def deployment(short_path: Path) -> Iterator[Deployment]:
    """Nothing is live; everything is stopped at the end."""
    http, grpc, metrics = free_ports(3)
    settings = Settings(
        artifacts=short_path,
        live_http_port=http,
        live_grpc_port=grpc,
        live_metrics_port=metrics,
        launch_timeout_s=20,
        server_logs=short_path / "logs",
        start_supervisor=False,
    )
    one = Deployment(settings)
    yield one
    one.close()


@pytest.fixture
def first(deployment: Deployment) -> Release:
    """The live release."""
    return deployment.live().promote(deployment.release("un"))
