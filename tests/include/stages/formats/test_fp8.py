# ruff: noqa: TID253
"""FP8 from ModelOpt's model in memory through the checkpoint to the layout for vLLM, read back on the CPU."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from include.errors import ToolError, UserError
from include.stages.build_openvino.graph import int4_linears
from include.stages.build_vllm.weights import write_weights
from include.stages.calibrate.__main__ import main
from include.stages.calibrate.export import export
from include.stages.calibrate.loading import load_model
from include.stages.calibrate.quantize import quantize
from include.stages.calibrate.source import SourceModel
from include.stages.checkpoint import Checkpoint
from include.stages.formats import FORMATS
from include.stages.formats.fp8 import Fp8Linear, rounded
from include.stages.quality import HeldOut, perplexity
from tests.include.stages.conftest import Calibrated
from tests.support import tiny_models as tiny

FP8 = FORMATS["fp8"]
MERGED = {"self_attn": ("q_proj", "k_proj", "v_proj"), "mlp": ("gate_proj", "up_proj")}
"""The layers that vLLM and TensorRT-LLM make one of."""


@pytest.fixture(scope="module", params=tiny.VARIANTS, ids=list(tiny.VARIANTS))
def fp8(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Calibrated:
    """Each architecture, calibrated in FP8, its other weights such that float16 holds them."""
    folder = tiny.save_model(tmp_path_factory.mktemp("model"), **tiny.VARIANTS[request.param])
    source = SourceModel.read(folder)
    model = load_model(source, "cpu", torch.float32).half().float()
    quantize(model, tiny.small_blocks(), tiny.GROUP_SIZE, 4, FP8)
    out = tmp_path_factory.mktemp("checkpoint")
    export(model, source, "float16", 1, out)
    return Calibrated(source, model, out)


def blocks() -> torch.Tensor:
    return torch.randint(0, 256, (4, 128), generator=torch.Generator().manual_seed(2))


def perplexity_of(model: Any) -> float:
    with torch.no_grad():
        return perplexity(lambda ids: model(ids, use_cache=False).logits[0], blocks())


def test_the_checkpoint_is_as_tensorrt_llms_fp8_layers_take_it(fp8: Calibrated) -> None:
    """Names, shapes and types of FP8Linear and FP8RowLinear in tensorrt_llm/quantization/layers.py."""
    config = Checkpoint(fp8.checkpoint).config["quantization"]
    assert (config["quant_algo"], config["kv_cache_quant_algo"]) == ("FP8", None)
    assert config["exclude_modules"] == ["lm_head"]
    tensors = load_file(fp8.checkpoint / "rank0.safetensors")
    sizes = {"attention.qkv": (128, 64), "attention.dense": (64, 64), "mlp.fc": (96, 64), "mlp.gate": (96, 64)}
    for name, size in {**sizes, "mlp.proj": (64, 96)}.items():
        layer = f"transformer.layers.1.{name}"
        weight = tensors[f"{layer}.weight"]
        assert (weight.dtype, tuple(weight.shape)) == (torch.float8_e4m3fn, size)
        for scale in ("weights_scaling_factor", "activation_scaling_factor"):
            found = tensors[f"{layer}.{scale}"]
            assert (found.dtype, tuple(found.shape)) == (torch.float32, (1,))
            assert found > 0
    assert not any("prequant" in name or "kv_cache" in name for name in tensors)
    assert tensors["lm_head.weight"].dtype == torch.float16


def test_weights_and_scales_are_modelopts(fp8: Calibrated) -> None:
    linears = dict(Checkpoint(fp8.checkpoint).linears())
    assert len(linears) == 2 * 7
    for name, linear in linears.items():
        module = fp8.model.get_submodule(name)
        assert isinstance(linear, Fp8Linear)
        torch.testing.assert_close(linear.weight_scale, module.weight_quantizer.amax.reshape(1) / 448)
        torch.testing.assert_close(linear.input_scale, module.input_quantizer.amax.reshape(1) / 448)
        with torch.no_grad():
            expected = module.weight_quantizer(module.weight)
        # A value halfway between two of E4M3 may go to either: ModelOpt multiplies here, and divides there.
        assert torch.isclose(linear.dequantized(), expected, rtol=1e-5, atol=1e-8).float().mean() > 0.995, name


def test_inputs_are_rounded_as_modelopt_rounds_them(fp8: Calibrated) -> None:
    quantizer = fp8.model.model.layers[0].mlp.down_proj.input_quantizer
    values = torch.randn(64, 96, generator=torch.Generator().manual_seed(3)) * float(quantizer.amax) / 2
    found = rounded(values, quantizer.amax.reshape(1) / 448)
    assert values.abs().max() > quantizer.amax  # beyond the range, too
    assert torch.isclose(found, quantizer(values), rtol=1e-5).float().mean() > 0.995
    assert (found != values).any()
    assert rounded(values.half(), quantizer.amax.reshape(1) / 448).dtype == torch.float16


def test_the_checkpoint_scores_as_the_fake_quantized_model(fp8: Calibrated) -> None:
    original = load_model(fp8.source, "cpu", torch.float32)
    before, fake, written = map(perplexity_of, (original, fp8.model, Checkpoint(fp8.checkpoint).model(torch.float32)))
    assert written == pytest.approx(fake, rel=0.005)
    assert fake == pytest.approx(before, rel=0.05)


def test_another_reader_of_vllms_layout_computes_the_very_same(fp8: Calibrated, tmp_path: Path) -> None:
    """transformers reads it by compressed-tensors, whose layers round their inputs by ``input_scale``."""
    checkpoint = Checkpoint(fp8.checkpoint)
    assert write_weights(checkpoint, tmp_path) == 2 * 7
    other = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    ours = checkpoint.model(torch.float32)
    assert perplexity_of(other) == pytest.approx(perplexity_of(ours), rel=1e-4)
    without = checkpoint.model(torch.float32)
    for module in without.modules():
        module._forward_pre_hooks.clear()
    with torch.no_grad():
        expected, found, unrounded = (model(blocks()[:1]).logits for model in (ours, other, without))
    scale = float(expected.abs().max())
    assert float((found - expected).abs().max()) < 1e-3 * scale
    assert float((unrounded - expected).abs().max()) > 1e-3 * scale


def test_layers_that_engines_merge_share_their_scales(fp8: Calibrated, tmp_path: Path) -> None:
    """vLLM takes the largest scale of the merged ones, and would quantize anew what has a smaller one."""
    write_weights(Checkpoint(fp8.checkpoint), tmp_path)
    tensors = load_file(tmp_path / "model-00001.safetensors")
    for block, names in MERGED.items():
        for scale in ("weight_scale", "input_scale"):
            found = [tensors[f"model.layers.1.{block}.{name}.{scale}"] for name in names]
            assert all(torch.equal(found[0], one) for one in found)
    weight = tensors["model.layers.1.mlp.down_proj.weight"]
    assert (weight.dtype, tuple(weight.shape)) == (torch.float8_e4m3fn, (64, 96))


def test_the_config_says_what_vllms_scheme_asks_for(fp8: Calibrated, tmp_path: Path) -> None:
    """W8A8 in FP8, per tensor and static, by vllm's compressed_tensors.py: ``_is_fp8_w8a8``."""
    write_weights(Checkpoint(fp8.checkpoint), tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())["quantization_config"]
    assert (config["quant_method"], config["format"]) == ("compressed-tensors", "float-quantized")
    assert (config["ignore"], config["kv_cache_scheme"]) == (["lm_head"], None)
    group = config["config_groups"]["group_0"]
    for part in ("weights", "input_activations"):
        wanted = {"num_bits": 8, "type": "float", "symmetric": True, "strategy": "tensor", "dynamic": False}
        assert wanted.items() <= group[part].items()


def test_two_ranks_merge_into_the_same_model(fp8: Calibrated, tmp_path: Path) -> None:
    export(fp8.model, fp8.source, "float16", 2, tmp_path)
    one, two = (dict(Checkpoint(folder).linears()) for folder in (fp8.checkpoint, tmp_path))
    for name, linear in one.items():
        merged = two[name]
        assert isinstance(linear, Fp8Linear)
        assert isinstance(merged, Fp8Linear)
        assert torch.equal(linear.weight.view(torch.uint8), merged.weight.view(torch.uint8)), name
        assert torch.equal(linear.weight_scale, merged.weight_scale), name
        assert torch.equal(linear.input_scale, merged.input_scale), name


def test_calibration_only_looks_so_that_no_extension_is_compiled(llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rounding = "modelopt.torch.quantization.tensor_quant.scaled_e4m3_impl"
    monkeypatch.setattr(rounding, lambda *_, **__: pytest.fail("calibration rounded values"))
    model = load_model(SourceModel.read(llama), "cpu", torch.float32)
    assert not FP8.searches
    quantize(model, tiny.small_blocks(), tiny.GROUP_SIZE, 4, FP8)
    with torch.no_grad(), pytest.raises(pytest.fail.Exception, match="rounded"):
        model(tiny.small_blocks())


def test_openvino_refuses_the_checkpoint(fp8: Calibrated) -> None:
    with pytest.raises(UserError, match="FP8, which target openvino does not serve") as caught:
        next(int4_linears(Checkpoint(fp8.checkpoint)))
    assert "int4_awq" in str(caught.value)


def test_a_value_that_is_not_finite_is_found(llama: Path, tmp_path: Path) -> None:
    source = SourceModel.read(llama)
    model = load_model(source, "cpu", torch.float32)
    quantize(model, tiny.small_blocks(), tiny.GROUP_SIZE, 4, FP8)
    with torch.no_grad():
        model.model.layers[0].mlp.down_proj.weight[3, 3] = float("nan")
    with pytest.raises(ToolError, match=r"mlp\.proj\.weight has values that are not finite"):
        export(model, source, "float16", 1, tmp_path)


def test_the_calibrate_program_writes_an_fp8_checkpoint(
    llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Dimensions that no group divides are no obstacle, for there are no groups."""
    tiny.save_model(llama, intermediate_size=100)
    flags = ["--quantization", "fp8", "--calib-size", "4", "--calib-seq-len", "32", "--dtype", "bfloat16"]
    monkeypatch.setattr(sys, "argv", ["calibrate", "--model", str(llama), "--out", str(tmp_path), *flags])
    assert main() == 0
    checkpoint = Checkpoint(tmp_path)
    assert (checkpoint.format.name, checkpoint.group_size) == ("fp8", 0)
    quality = json.loads((tmp_path / "reference.json").read_text())["quality"]
    with torch.no_grad():
        model = checkpoint.model(torch.float32)
        score = perplexity(lambda ids: model(ids).logits[0], HeldOut.load(tmp_path).blocks)
    assert quality["after"] == pytest.approx(score, rel=0.001)
    assert quality["after"] != quality["before"]
    results = json.loads((tmp_path / "stage.json").read_text())["results"]
    assert results["quantization"] == "fp8"
    assert not {"group_size", "smoothing"} & set(results)
