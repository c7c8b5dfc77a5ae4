# ruff: noqa: TID253
from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import openvino as ov
import openvino_genai
import pytest
import torch

from include.errors import ToolError, UserError
from include.stages.build_openvino.__main__ import main
from include.stages.build_openvino.graph import constant_name, int4_constants, int4_weight, read_int4, verify_ints
from include.stages.build_openvino.proof import PLUGIN_CONFIGS, Proof, engine_perplexity, plugin_config
from include.stages.checkpoint import Checkpoint
from include.stages.formats.int4_awq import QuantizedLinear
from include.stages.quality import HeldOut
from tests.include.stages.conftest import Calibrated
from tests.support import tiny_models as tiny

EXACT = PLUGIN_CONFIGS["exact"]


def run(checkpoint: Path, out: Path, *more: str) -> int:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["build", "--checkpoint", str(checkpoint), "--out", str(out), *more])
        return main()


@pytest.fixture(scope="module")
def engine(calibrated: Calibrated, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("engine")
    assert run(calibrated.checkpoint, out) == 0
    return out


def test_writes_the_engine_and_its_proof(calibrated: Calibrated, engine: Path) -> None:
    assert {path.name for path in engine.iterdir()} == {
        "openvino_model.xml",
        "openvino_model.bin",
        "config.json",
        "generation_config.json",
        "stage.json",
    }
    config = json.loads((engine / "config.json").read_text())
    assert config["target"] == "openvino"
    assert (config["vocab_size"], config["max_position_embeddings"]) == (320, 256)
    assert config["checkpoint"] == Checkpoint(calibrated.checkpoint).config
    assert config["plugin_config"] == EXACT
    proof = Proof(**config["proof"])
    assert proof.engine_perplexity == pytest.approx(proof.torch_perplexity, rel=0.005)
    report = json.loads((engine / "stage.json").read_text())
    assert report["results"]["int4_layers"] == 2 * 7
    assert report["results"]["plugin_config"] == EXACT


def test_holds_the_checkpoints_ints(calibrated: Calibrated, engine: Path) -> None:
    constants = int4_constants(ov.Core().read_model(engine / "openvino_model.xml"))
    linears = dict(Checkpoint(calibrated.checkpoint).linears())
    assert len(linears) == 14
    for name, linear in linears.items():
        assert np.array_equal(read_int4(constants[constant_name(name)]), linear.ints.numpy()), name


def test_finds_one_wrong_int(calibrated: Calibrated, engine: Path, tmp_path: Path) -> None:
    linear = dict(Checkpoint(calibrated.checkpoint).linears())["model.layers.1.mlp.up_proj"]
    copy = shutil.copytree(engine, tmp_path / "copy")
    weights = bytearray((copy / "openvino_model.bin").read_bytes())
    flat = linear.ints.numpy().ravel()
    packed = ((flat[0::2] & 15) | (flat[1::2] << 4)).astype(np.int8).tobytes()
    weights[weights.find(packed)] ^= 1
    (copy / "openvino_model.bin").write_bytes(weights)
    with pytest.raises(ToolError, match=r"layer model\.layers\.1\.mlp\.up_proj differ"):
        verify_ints(copy / "openvino_model.xml", Checkpoint(calibrated.checkpoint))


def test_the_proof_fails_on_other_scales(calibrated: Calibrated, engine: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(engine, tmp_path / "copy")
    held_out = HeldOut.load(calibrated.checkpoint)
    expected = engine_perplexity(copy, held_out.blocks, EXACT)
    weights = (copy / "openvino_model.bin").read_bytes()
    for _, linear in Checkpoint(calibrated.checkpoint).linears():
        scales = linear.scales.half().numpy().tobytes()
        assert scales in weights
        weights = weights.replace(scales, (2 * linear.scales).half().numpy().tobytes())
    (copy / "openvino_model.bin").write_bytes(weights)
    with pytest.raises(ToolError, match="apart"):
        Proof(expected, engine_perplexity(copy, held_out.blocks, EXACT)).check("exact")


@pytest.mark.parametrize(
    ("perplexity", "passes"),
    [(10.04, True), (9.96, True), (10.06, False), (9.94, False), (float("nan"), False)],
)
@pytest.mark.parametrize(
    ("precision", "failure", "remedy"),
    [("exact", ToolError, "report this"), ("fast", UserError, "choose precision exact")],
)
def test_half_a_percent_is_allowed(
    perplexity: float, passes: bool, precision: str, failure: type[ToolError | UserError], remedy: str
) -> None:
    proof = Proof(torch_perplexity=10.0, engine_perplexity=perplexity)
    if passes:
        proof.check(precision)
    else:
        with pytest.raises(failure, match=r"0\.5%") as raised:
            proof.check(precision)
        assert remedy in str(raised.value)


@pytest.mark.parametrize(("has_bfloat16", "used"), [(True, "bf16"), (False, "f32")])
def test_fast_falls_back_without_bfloat16(has_bfloat16: bool, used: str) -> None:
    properties = plugin_config("fast", has_bfloat16)
    assert properties == PLUGIN_CONFIGS["fast"] | {"INFERENCE_PRECISION_HINT": used}
    assert plugin_config("exact", has_bfloat16) == EXACT


def test_the_proof_sees_a_coarser_kv_cache(calibrated: Calibrated, engine: Path) -> None:
    blocks = HeldOut.load(calibrated.checkpoint).blocks
    exact, coarse = (
        engine_perplexity(engine, blocks, EXACT | {"KV_CACHE_PRECISION": precision}) for precision in ("f16", "u8")
    )
    assert exact != coarse


@pytest.mark.parametrize(("scale", "kept"), [(0.01, ov.Type.f16), (1e-6, ov.Type.f32)], ids=["float16", "float32"])
def test_scales_too_small_for_float16_stay_float32(scale: float, kept: ov.Type) -> None:
    linear = QuantizedLinear(torch.randint(-8, 8, (4, 32), dtype=torch.int8), torch.full((4, 2), scale), None, None)
    graph = ov.Model([int4_weight("layer", linear)], [])
    constants = [node for node in graph.get_ops() if node.get_type_name() == "Constant"]
    assert kept in {node.get_element_type() for node in constants}
    result = ov.Core().compile_model(graph, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})([])[0]
    np.testing.assert_allclose(result, linear.dequantized().numpy(), rtol=1e-3)


def test_continuous_batching_answers_like_torch(calibrated: Calibrated, engine: Path) -> None:
    pipeline = openvino_genai.ContinuousBatchingPipeline(str(engine), openvino_genai.SchedulerConfig(), "CPU", EXACT)
    config = openvino_genai.GenerationConfig(max_new_tokens=12, do_sample=False, ignore_eos=True)
    prompts = tiny.small_blocks(3, 10)
    handles = [pipeline.add_request(number, ov.Tensor(row.numpy()[None]), config) for number, row in enumerate(prompts)]
    while pipeline.has_non_finished_requests():
        pipeline.step()
    model = Checkpoint(calibrated.checkpoint).model(torch.float32)
    expected = model.generate(prompts, max_new_tokens=12, do_sample=False, eos_token_id=None, pad_token_id=0)[:, 10:]
    assert [handle.read_all()[0].generated_ids for handle in handles] == expected.tolist()


@pytest.mark.parametrize(
    "missing",
    ["config.json", "rank0.safetensors", "held_out.json", "reference.json", "generation_config.json"],
    ids=lambda name: name.split(".")[0],
)
def test_an_incomplete_checkpoint_is_refused(
    calibrated: Calibrated, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    copy, out = shutil.copytree(calibrated.checkpoint, tmp_path / "copy"), tmp_path / "out"
    out.mkdir()
    (copy / missing).unlink()
    monkeypatch.setattr(sys, "argv", ["build", "--checkpoint", str(copy), "--out", str(out)])
    assert main() == 64
    assert [path.name for path in out.iterdir()] == ["failure.json"]
    assert missing in (out / "failure.json").read_text()
