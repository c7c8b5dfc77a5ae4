"""A worker with an empty store and ports of its own, and a tiny model directory."""

from __future__ import annotations

from pathlib import Path

import pytest

from include.context import Context
from include.host.ports import free_ports
from include.settings import Settings
from tests.support import tiny_files as tiny


@pytest.fixture
def context(short_path: Path, monkeypatch: pytest.MonkeyPatch) -> Context:
    http, grpc, metrics = free_ports(3)
    variables = {
        "HF2TRITON_ARTIFACTS": str(short_path / "artifacts"),
        "HF2TRITON_LIVE_HTTP_PORT": str(http),
        "HF2TRITON_LIVE_GRPC_PORT": str(grpc),
        "HF2TRITON_LIVE_METRICS_PORT": str(metrics),
    }
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    return Context(settings=Settings(), log=lambda _: None, dag_id="release_awq_engine", run_id="manual__1")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return tiny.write(tiny.model(), tmp_path / "model")
