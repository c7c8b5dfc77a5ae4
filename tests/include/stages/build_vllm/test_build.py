# ruff: noqa: TID253
"""The conversion for target vllm, read back by transformers' own compressed-tensors on the CPU."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from include.errors import ToolError, UserError
from include.stages.build_vllm.fold import folded
from include.stages.build_vllm.stage import build, engine_arguments
from include.stages.build_vllm.weights import write_weights
from include.stages.calibrate.export import export
from include.stages.calibrate.foldable import make_foldable
from include.stages.calibrate.loading import load_model
from include.stages.calibrate.quantize import quantize
from include.stages.calibrate.source import SourceModel
from include.stages.checkpoint import Checkpoint
from include.stages.common import StageReport
from include.stages.formats.int4_awq import pack
from include.stages.quality import HeldOut
from tests.include.stages.conftest import Calibrated, add_measurements, perplexity_of
from tests.support import tiny_models as tiny

LIMITS = {"tp_size": 1, "max_batch_size": 4, "max_input_len": 128, "max_seq_len": 256, "max_num_tokens": 256}


@pytest.fixture(scope="module", params=tiny.VARIANTS, ids=list(tiny.VARIANTS))
def checkpoint(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Each architecture, calibrated in the form that folds, with the files that the calibrate program writes."""
    folder = tiny.save_model(tmp_path_factory.mktemp("model"), **tiny.VARIANTS[request.param])
    source = SourceModel.read(folder)
    model = load_model(source, "cpu", torch.float32)
    quantize(model, tiny.small_blocks(), tiny.GROUP_SIZE, 4)
    make_foldable(model, source.config)
    out = tmp_path_factory.mktemp("checkpoint")
    export(model, source, "float16", 1, out)
    add_measurements(out, torch.randint(0, 256, (4, 128), generator=torch.Generator().manual_seed(2)))
    tiny.save_tokenizer(out / "tokenizer")
    return out


def by_transformers(folder: Path, arguments: Mapping[str, Any], blocks: list[list[int]]) -> float:
    """In the place of vLLM: another reader of the same layout."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    return perplexity_of(model, torch.tensor(blocks))


def test_another_reader_of_the_layout_scores_as_the_checkpoint(checkpoint: Path, tmp_path: Path) -> None:
    report = StageReport()
    build(checkpoint, tmp_path, LIMITS, None, report, score=by_transformers)
    described = json.loads((tmp_path / "engine.json").read_text())
    assert described["arguments"] == engine_arguments("float16", LIMITS, None)
    assert described["proof"]["engine_perplexity"] == pytest.approx(described["proof"]["torch_perplexity"], rel=0.002)
    assert report.results["quantized_layers"] == 2 * 7
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["rope_theta"] == 50000.0
    assert {"tokenizer.json", "generation_config.json"} <= {path.name for path in tmp_path.iterdir()}


def test_the_ints_are_the_checkpoints(checkpoint: Path, tmp_path: Path) -> None:
    write_weights(Checkpoint(checkpoint), tmp_path)
    tensors = load_file(tmp_path / "model-00001.safetensors")
    for name, linear in Checkpoint(checkpoint).linears():
        assert torch.equal(tensors[f"{name}.weight_packed"], pack(linear.ints)), name


def test_several_files_hold_the_same_as_one(checkpoint: Path, tmp_path: Path) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    for folder, limit in ((whole, 1 << 30), (parts, 1 << 14)):
        folder.mkdir()
        write_weights(Checkpoint(checkpoint), folder, limit)
    files = sorted(parts.glob("*.safetensors"))
    assert len(files) > 2
    together = {name: tensor for file in files for name, tensor in load_file(file).items()}
    one = load_file(whole / "model-00001.safetensors")
    assert together.keys() == one.keys()
    assert all(torch.equal(together[name], tensor) for name, tensor in one.items())
    index = json.loads((parts / "model.safetensors.index.json").read_text())
    assert index["weight_map"].keys() == one.keys()


def test_scales_as_tensorrt_llm_takes_them_are_refused(calibrated: Calibrated) -> None:
    with pytest.raises(UserError, match="do not fold"):
        list(folded(Checkpoint(calibrated.checkpoint)))


def test_an_engine_that_scores_otherwise_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    def wrong(folder: Path, arguments: Mapping[str, Any], blocks: list[list[int]]) -> float:
        return 1.1 * by_transformers(folder, arguments, blocks)

    with pytest.raises(ToolError, match="apart"):
        build(checkpoint, tmp_path, LIMITS, None, StageReport(), score=wrong)
    assert not (tmp_path / "engine.json").exists()


def difference(checkpoint: Path, folder: Path) -> float:
    """The largest difference of the logits, as a share of the largest logit."""
    block = HeldOut.load(checkpoint).blocks[:1]
    models = (
        Checkpoint(checkpoint).model(torch.float32),
        AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32),
    )
    with torch.no_grad():
        expected, found = (model(block, use_cache=False).logits[0] for model in models)
    return float((expected - found).abs().max() / expected.abs().max())


def test_logits_are_the_checkpoints_and_are_not_with_scales_that_were_not_folded(
    checkpoint: Path, tmp_path: Path
) -> None:
    write_weights(Checkpoint(checkpoint), tmp_path)
    assert difference(checkpoint, tmp_path) < 0.01
    file = tmp_path / "model-00001.safetensors"
    tensors = load_file(file)
    for name, linear in Checkpoint(checkpoint).linears():
        tensors[f"{name}.weight_scale"] = linear.scales.half()
    save_file(tensors, file, metadata={"format": "pt"})
    assert difference(checkpoint, tmp_path) > 0.02


@pytest.mark.parametrize(
    "missing", ["config.json", "rank0.safetensors", "held_out.json", "reference.json", "generation_config.json"]
)
def test_an_incomplete_checkpoint_is_refused(checkpoint: Path, tmp_path: Path, missing: str) -> None:
    copy, out = shutil.copytree(checkpoint, tmp_path / "copy"), tmp_path / "out"
    out.mkdir()
    (copy / missing).unlink()
    with pytest.raises(UserError, match=missing):
        build(copy, out, LIMITS, None, StageReport(), score=by_transformers)
    assert not list(out.iterdir())


def test_values_beyond_the_engines_type_are_named(checkpoint: Path) -> None:
    _, linear = next(iter(Checkpoint(checkpoint).linears()))
    huge = replace(linear, scales=linear.scales * 1e9)
    with pytest.raises(ToolError, match="bfloat16"):
        list(huge.compressed(torch.float16))
