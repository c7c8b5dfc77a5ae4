"""These tests run in the openvino target's environment: they import what its Triton models are made of."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

import pytest

from tests.support import tiny_models as tiny

PROJECT = Path(__file__).parents[5]

# Triton's stub finds a model's own modules the same way.
sys.path.insert(0, str(PROJECT / "include" / "targets" / "openvino" / "repository" / "tensorrt_llm" / "1"))


@pytest.fixture(scope="session")
def tiny_dir(request: pytest.FixtureRequest) -> Path:
    """A folder with ``engine`` and ``tokenizer``, kept between runs: making it takes most of a run's time."""
    path = request.config.cache.mkdir("tiny") / hashlib.sha256(Path(tiny.__file__).read_bytes()).hexdigest()[:16]
    if not path.exists():
        tiny.write_served(path)
    return path


@pytest.fixture(scope="session")
def tokenizer_dir(tiny_dir: Path) -> Path:
    """A byte-level tokenizer with a chat template."""
    return tiny_dir / "tokenizer"


@pytest.fixture(scope="session")
def engine_dir(tiny_dir: Path) -> Path:
    """A random Llama of two layers as an OpenVINO IR."""
    return tiny_dir / "engine"
