# ruff: noqa: TID253
from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from include.errors import ToolError
from include.stages.calibrate.export import export, verify
from include.stages.calibrate.loading import load_model
from include.stages.calibrate.quantize import quantize
from include.stages.calibrate.source import SourceModel
from include.stages.checkpoint import Checkpoint
from tests.include.stages import tiny
from tests.include.stages.conftest import Calibrated

SCALING = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}


@pytest.fixture
def copy(calibrated: Calibrated, tmp_path: Path) -> Path:
    return shutil.copytree(calibrated.checkpoint, tmp_path / "copy")


def test_files_can_be_read_by_every_user(calibrated: Calibrated) -> None:
    modes = {path.name: path.stat().st_mode & 0o777 for path in calibrated.checkpoint.iterdir()}
    assert modes["config.json"] & 0o444 == 0o444
    assert modes["rank0.safetensors"] == 0o644


def test_config_says_what_tensorrt_llm_needs(calibrated: Calibrated) -> None:
    config = Checkpoint(calibrated.checkpoint).config
    qwen = calibrated.source.architecture == "Qwen2ForCausalLM"
    assert config["rotary_base"] == 50000.0
    mlp = calibrated.model.model.layers[0].mlp
    attention = calibrated.model.model.layers[0].self_attn
    assert config["attn_bias"] == (attention.q_proj.bias is not None)
    assert config["mlp_bias"] == (mlp.up_proj.bias is not None)
    assert config.get("qwen_type") == ("qwen2" if qwen else None)
    assert config["quantization"]["quant_algo"] == "W4A16_AWQ"
    assert config["quantization"]["group_size"] == tiny.GROUP_SIZE


@pytest.mark.parametrize("base", [10000.0, None], ids=["wrong", "absent"])
def test_finds_a_wrong_rotary_base(calibrated: Calibrated, copy: Path, base: float | None) -> None:
    tiny.change_config(copy, rotary_base=base)
    with pytest.raises(ToolError, match=rf"rotary_base is {base}, the model's is 50000\.0"):
        verify(calibrated.source, copy)


@pytest.mark.parametrize(
    "written",
    [None, {"rope_type": "linear", "factor": 8.0}, {**SCALING, "factor": 4.0}],
    ids=["lost", "other kind", "other factor"],
)
def test_finds_a_wrong_rotary_scaling(calibrated: Calibrated, copy: Path, written: dict[str, object] | None) -> None:
    tiny.change_config(copy, rotary_scaling=written)
    with pytest.raises(ToolError, match="rotary_scaling"):
        verify(replace(calibrated.source, rope_scaling=SCALING), copy)


@pytest.mark.parametrize(
    "tensor",
    [
        "transformer.layers.1.mlp.proj.weights_scaling_factor",
        "transformer.layers.0.attention.qkv.prequant_scaling_factor",
        "transformer.vocab_embedding.weight",
    ],
)
def test_finds_a_value_that_is_not_finite(calibrated: Calibrated, copy: Path, tensor: str) -> None:
    tensors = load_file(copy / "rank0.safetensors")
    tensors[tensor].view(-1)[3] = float("inf")
    save_file(tensors, copy / "rank0.safetensors")
    with pytest.raises(ToolError, match="not finite"):
        verify(calibrated.source, copy)


def test_rotary_scaling_survives(tmp_path: Path) -> None:
    source = SourceModel.read(tiny.save_model(tmp_path / "model", rope_scaling=SCALING))
    model = load_model(source, "cpu", torch.float32)
    quantize(model, tiny.small_blocks(), tiny.GROUP_SIZE, 4)
    out = tmp_path / "out"
    out.mkdir()
    export(model, source, "float16", 1, out)
    rebuilt = Checkpoint(out).model(torch.float32)
    torch.testing.assert_close(rebuilt.model.rotary_emb.inv_freq, model.model.rotary_emb.inv_freq)


def test_tied_embeddings_and_an_odd_vocabulary_survive(tmp_path: Path) -> None:
    folder = tiny.save_model(tmp_path / "model", tie_word_embeddings=True, vocab_size=300)
    source = SourceModel.read(folder)
    model = load_model(source, "cpu", torch.float32)
    quantize(model, tiny.small_blocks(), tiny.GROUP_SIZE, 4)
    out = tmp_path / "out"
    out.mkdir()
    export(model, source, "float16", 1, out)
    ids = tiny.small_blocks(2, 16)
    with torch.no_grad():
        expected = model(ids).logits
        logits = Checkpoint(out).model(torch.float32)(ids).logits
    # ModelOpt pads the vocabulary to a multiple of 64.
    assert logits.shape[-1] == 320
    assert torch.count_nonzero(logits[..., 300:]) == 0
    torch.testing.assert_close(logits[..., :300], expected, rtol=0.05, atol=0.05 * expected.std().item())
