from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.support.hub_server import HubServer, running


@pytest.fixture
def short_path() -> Iterator[Path]:
    """A folder with a short name, for a store: a unix socket's path has 107 bytes, and the proxy's is in the store."""
    path = Path(tempfile.mkdtemp(prefix="t-"))
    yield path
    shutil.rmtree(path)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    """A Hub of its own for each test, and a huggingface_hub that retries without pauses."""
    for module in ("huggingface_hub.utils._http", "huggingface_hub.file_download"):
        monkeypatch.setattr(f"{module}.time", SimpleNamespace(sleep=lambda _: None))
    with running() as server:
        yield server
