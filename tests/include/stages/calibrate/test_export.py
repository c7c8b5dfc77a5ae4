# ruff: noqa: TID253
from __future__ import annotations

from pathlib import Path

import pytest
import torch
from modelopt.torch.export import export_tensorrt_llm_checkpoint

from include.errors import ToolError
from include.model.architectures import ARCHITECTURES
from include.stages.calibrate import rank_file
from include.stages.calibrate.export import StayOnDevice, _complete, export, verify_rotary
from include.stages.calibrate.loading import load_model
from include.stages.calibrate.quantize import quantize
from include.stages.calibrate.source import SourceModel
from include.stages.checkpoint import SOURCE_CONFIG_FILE, Checkpoint
from tests.include.stages.conftest import Calibrated
from tests.support import tiny_models as tiny

SCALING = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}


def test_files_can_be_read_by_every_user(calibrated: Calibrated) -> None:
    modes = {path.name: path.stat().st_mode & 0o777 for path in calibrated.checkpoint.iterdir()}
    assert modes["config.json"] & 0o444 == 0o444
    assert modes["rank0.safetensors"] == 0o644


def test_config_says_what_tensorrt_llm_needs(calibrated: Calibrated) -> None:
    config = Checkpoint(calibrated.checkpoint).config
    qwen = calibrated.source.config.architecture == "Qwen2ForCausalLM"
    assert config["rotary_base"] == 50000.0
    mlp = calibrated.model.model.layers[0].mlp
    attention = calibrated.model.model.layers[0].self_attn
    assert config["attn_bias"] == (attention.q_proj.bias is not None)
    assert config["mlp_bias"] == (mlp.up_proj.bias is not None)
    assert config.get("qwen_type") == ("qwen2" if qwen else None)
    assert config["quantization"]["quant_algo"] == "W4A16_AWQ"
    assert config["quantization"]["group_size"] == tiny.GROUP_SIZE


@pytest.mark.parametrize("tp_size", [1, 2])
def test_weights_are_those_that_modelopt_writes(calibrated: Calibrated, tmp_path: Path, tp_size: int) -> None:
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    ours.mkdir()
    export(calibrated.model, calibrated.source, "float16", tp_size, ours)
    with torch.no_grad():
        export_tensorrt_llm_checkpoint(
            calibrated.model, "llama", torch.float16, export_dir=theirs, inference_tensor_parallel=tp_size
        )
    names = {path.name for path in theirs.iterdir()}
    assert names == {"config.json", *(f"rank{i}.safetensors" for i in range(tp_size))}
    assert {path.name for path in ours.iterdir()} == names | {SOURCE_CONFIG_FILE}
    for name in names - {"config.json"}:
        assert (ours / name).read_bytes() == (theirs / name).read_bytes(), name
    theirs_config = Checkpoint(theirs).config
    assert theirs_config.items() <= Checkpoint(ours).config.items()


def _stays_on_its_device() -> bool:
    """What ``tensor.cpu()`` does here. A tensor on the meta device has no values that could be copied."""
    tensor = torch.empty(2, device="meta")
    try:
        return tensor.cpu() is tensor
    except NotImplementedError:
        return False


def test_nothing_goes_to_the_host_within_the_mode() -> None:
    with StayOnDevice():
        assert _stays_on_its_device()
        assert torch.add(torch.ones(2), other=1).tolist() == [2, 2]
    assert not _stays_on_its_device()


def test_exports_by_way_of_the_host_when_the_gpu_is_full(
    calibrated: Calibrated, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries, save = [], rank_file.save

    def save_at_second_try(tensors: dict[str, torch.Tensor], path: Path) -> None:
        tries.append(_stays_on_its_device())
        if len(tries) == 1:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 96.00 MiB")
        save(tensors, path)

    monkeypatch.setattr(rank_file, "save", save_at_second_try)
    export(calibrated.model, calibrated.source, "float16", 1, tmp_path)
    assert tries == [True, False]
    assert (tmp_path / "rank0.safetensors").read_bytes() == (calibrated.checkpoint / "rank0.safetensors").read_bytes()


@pytest.mark.parametrize("base", [10000.0, None], ids=["wrong", "absent"])
def test_finds_a_wrong_rotary_base(calibrated: Calibrated, base: float | None) -> None:
    with pytest.raises(ToolError, match=rf"rotary_base is {base}, the model's is 50000\.0"):
        verify_rotary(calibrated.source.config, {"rotary_base": base})


@pytest.mark.parametrize(
    "written",
    [None, {"rope_type": "linear", "factor": 8.0}, {**SCALING, "factor": 4.0}],
    ids=["lost", "other kind", "other factor"],
)
def test_finds_a_wrong_rotary_scaling(calibrated: Calibrated, written: dict[str, object] | None) -> None:
    with pytest.raises(ToolError, match="rotary_scaling"):
        verify_rotary(
            calibrated.source.config.model_copy(update={"rope_scaling": SCALING}),
            {"rotary_base": 50000.0, "rotary_scaling": written},
        )


@pytest.mark.parametrize(
    ("module", "written"),
    [
        pytest.param("model.layers.1.mlp.down_proj.input_quantizer", "layers.1.mlp.proj.prequant_scaling_factor"),
        pytest.param("model.layers.0.input_layernorm", "layers.0.input_layernorm.weight"),
        pytest.param("model.embed_tokens", "vocab_embedding.weight"),
    ],
    ids=["scale", "norm", "embedding"],
)
def test_finds_a_value_that_is_not_finite(llama: Path, tmp_path: Path, module: str, written: str) -> None:
    source = SourceModel.read(llama)
    model = load_model(source, "cpu", torch.float32)
    quantize(model, tiny.small_blocks(), tiny.GROUP_SIZE, 4)
    values = next(iter(model.get_submodule(module).state_dict().values()))
    values.view(-1)[3] = float("inf")
    out = tmp_path / "out"
    out.mkdir()
    with pytest.raises(ToolError, match=f"{written} has values that are not finite"):
        export(model, source, "float16", 1, out)
    assert not list(out.iterdir())


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
    # ModelOpt would pad the vocabulary to a multiple of 64.
    assert logits.shape[-1] == 300
    torch.testing.assert_close(logits, expected, rtol=0.05, atol=0.05 * expected.std().item())


def test_biases_win_over_what_tensorrt_llm_fills_in(calibrated: Calibrated) -> None:
    """Where tensorrt_llm is installed, its config class leaves a mlp_bias that says False for every Llama."""
    config = {"quantization": {}, "mlp_bias": False, "attn_bias": False, "qwen_type": "qwen", "head_size": 16}
    source = calibrated.source.config
    _complete(config, calibrated.model, ARCHITECTURES[source.architecture], {})
    assert (config["mlp_bias"], config["attn_bias"]) == (source.mlp_bias, source.qkv_bias)
    assert config["qwen_type"] == ("qwen2" if source.architecture == "Qwen2ForCausalLM" else "qwen")
