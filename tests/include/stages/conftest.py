# ruff: noqa: TID253
from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import GenerationConfig

from include.stages.calibrate.export import export
from include.stages.calibrate.loading import load_model
from include.stages.calibrate.quantize import quantize
from include.stages.calibrate.source import SourceModel
from include.stages.checkpoint import Checkpoint
from include.stages.quality import REFERENCE_FILE, HeldOut, perplexity
from tests.support import tiny_models as tiny


@dataclass(frozen=True)
class Calibrated:
    """A tiny model as ModelOpt leaves it in memory, and the checkpoint that was written from it."""

    source: SourceModel
    model: Any
    checkpoint: Path


def add_measurements(checkpoint: Path, blocks: torch.Tensor) -> None:
    """Writes what the calibrate program adds to the weights: held-out text, its perplexity, the generation config."""
    GenerationConfig(eos_token_id=257).save_pretrained(checkpoint)
    HeldOut("sha", blocks).save(checkpoint)
    after = perplexity_of(Checkpoint(checkpoint).model(torch.float32), blocks)
    (checkpoint / REFERENCE_FILE).write_text(json.dumps({"quality": {"after": after}}))


def perplexity_of(model: Any, blocks: torch.Tensor) -> float:
    """By PyTorch."""
    with torch.no_grad():
        return perplexity(lambda ids: model(ids, use_cache=False).logits[0], blocks)


@pytest.fixture
def llama(tmp_path: Path) -> Path:
    """A model directory that a test may damage."""
    return tiny.save_model(tmp_path / "model")


@pytest.fixture(scope="session", params=tiny.VARIANTS, ids=list(tiny.VARIANTS))
def calibrated(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Calibrated:
    """Each supported architecture, calibrated once."""
    folder = tiny.save_model(tmp_path_factory.mktemp("model"), **tiny.VARIANTS[request.param])
    source = SourceModel.read(folder)
    model = load_model(source, "cpu", torch.float32)
    quantize(model, tiny.small_blocks(), tiny.GROUP_SIZE, 4)
    out = tmp_path_factory.mktemp("checkpoint")
    export(model, source, "float16", 1, out)
    add_measurements(out, torch.randint(0, 256, (4, 128), generator=torch.Generator().manual_seed(2)))
    return Calibrated(source, model, out)
