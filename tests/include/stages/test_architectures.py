# ruff: noqa: TID253
"""Every further architecture through calibration and to each target, against transformers and ModelOpt."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import openvino as ov
import openvino_genai
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from include.errors import UserError
from include.model.architectures import ARCHITECTURES
from include.model.weights import Weights
from include.stages.build_openvino.__main__ import main
from include.stages.build_openvino.proof import PLUGIN_CONFIGS
from include.stages.build_vllm.fold import folded
from include.stages.build_vllm.weights import write_weights
from include.stages.calibrate.export import export
from include.stages.calibrate.foldable import make_foldable
from include.stages.calibrate.loading import load_model
from include.stages.calibrate.quantize import quantize
from include.stages.calibrate.source import SourceModel
from include.stages.checkpoint import Checkpoint
from tests.include.stages.conftest import add_measurements
from tests.support import tiny_models as tiny

IDS = torch.randint(0, 256, (2, 96), generator=torch.Generator().manual_seed(3))


@dataclass(frozen=True)
class Case:
    """A tiny model, its checkpoint in each form of scales, and the logits of ModelOpt's own simulation of both."""

    folder: Path
    source: SourceModel
    model: Any
    free: Path
    free_logits: torch.Tensor
    foldable: Path
    foldable_logits: torch.Tensor


def logits_of(model: Any) -> torch.Tensor:
    with torch.no_grad():
        logits: torch.Tensor = model(IDS, use_cache=False).logits
    return logits


def apart(found: torch.Tensor, expected: torch.Tensor) -> float:
    """The largest difference, in standard deviations of what is expected."""
    return float((found - expected).abs().max() / expected.std())


def read_by_transformers(folder: Path) -> Any:
    """With all of its attention: the fused one leaves the caps of scores out."""
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")


def fused(folder: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="sdpa")


@pytest.fixture(scope="module", params=tiny.FURTHER, ids=list(tiny.FURTHER))
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    folder = tmp_path_factory.mktemp("architecture")
    tiny.save_model(folder / "model", random_norms=True, **tiny.FURTHER[request.param])
    source = SourceModel.read(folder / "model")
    model = load_model(source, "cpu", torch.float32)
    quantize(model, tiny.small_blocks(), tiny.GROUP_SIZE, 4)
    logits = []
    for name in ("free", "foldable"):
        out = folder / name
        out.mkdir()
        if name == "foldable":
            make_foldable(model, source.config)
        export(model, source, "float16", 1, out)
        logits.append(logits_of(model))
        add_measurements(out, torch.cat([IDS, IDS.flip(0)]))
    return Case(folder / "model", source, model, folder / "free", logits[0], folder / "foldable", logits[1])


def test_every_architecture_is_tried() -> None:
    tried = {variant["architecture"] for variant in (*tiny.VARIANTS.values(), *tiny.FURTHER.values())}
    assert tried == set(ARCHITECTURES)


def test_the_files_tensors_are_those_of_the_table(case: Case) -> None:
    Weights.read(case.folder).check(case.source.config)
    assert case.source.config.parameters == sum(tensor.numel() for tensor in tiny.weights(case.folder).values())


def test_what_is_loaded_computes_what_transformers_does(case: Case) -> None:
    loaded = load_model(case.source, "cpu", torch.float32)
    expected = read_by_transformers(case.folder)
    assert apart(logits_of(loaded), logits_of(expected)) < 1e-4


def test_the_checkpoint_computes_what_modelopt_simulates(case: Case) -> None:
    for checkpoint, expected in ((case.free, case.free_logits), (case.foldable, case.foldable_logits)):
        assert apart(logits_of(Checkpoint(checkpoint).model(torch.float32)), expected) < 0.03


def test_two_ranks_merge_into_the_same_model(case: Case, tmp_path: Path) -> None:
    export(case.model, case.source, "float16", 2, tmp_path)
    one, two = (Checkpoint(folder).state(torch.float32) for folder in (case.foldable, tmp_path))
    assert one.keys() == two.keys()
    assert all(torch.equal(tensor, two[name]) for name, tensor in one.items())


def test_openvino_scores_and_answers_as_the_checkpoint(case: Case, tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["build", "--checkpoint", str(case.free), "--out", str(tmp_path)])
        assert main() == 0, (tmp_path / "failure.json").read_text()
    proof = json.loads((tmp_path / "config.json").read_text())["proof"]
    assert proof["engine_perplexity"] == pytest.approx(proof["torch_perplexity"], rel=0.005)
    # Beyond the window, token by token, as a server does.
    pipeline = openvino_genai.ContinuousBatchingPipeline(
        str(tmp_path), openvino_genai.SchedulerConfig(), "CPU", PLUGIN_CONFIGS["exact"]
    )
    prompts, config = IDS[:, :40], openvino_genai.GenerationConfig(max_new_tokens=12, ignore_eos=True)
    handles = [pipeline.add_request(number, ov.Tensor(row.numpy()[None]), config) for number, row in enumerate(prompts)]
    while pipeline.has_non_finished_requests():
        pipeline.step()
    answers = torch.tensor([handle.read_all()[0].generated_ids for handle in handles])
    with torch.no_grad():
        logits = Checkpoint(case.free).model(torch.float32)(torch.cat([prompts, answers], dim=1)).logits[:, 39:-1]
    # At a near tie another token is as right.
    chosen = logits.gather(-1, answers[..., None])[..., 0]
    assert ((logits.max(dim=-1).values - chosen) < 0.05 * logits.std()).all()


def test_vllms_layout_computes_what_modelopt_simulates(case: Case, tmp_path: Path) -> None:
    write_weights(Checkpoint(case.foldable), tmp_path)
    read = read_by_transformers(tmp_path)
    assert apart(logits_of(read), case.foldable_logits) < 0.03
    written = json.loads((tmp_path / "config.json").read_text())
    assert case.source.config.sliding_window in (None, written.get("sliding_window"))


def test_a_scale_in_a_wrong_norm_is_seen(case: Case, tmp_path: Path) -> None:
    checkpoint = Checkpoint(case.foldable)
    before_mlp, before_attention = checkpoint.tensors.before_mlp, checkpoint.tensors.before_attention
    if before_mlp is None or before_attention is None:
        pytest.skip("no scale of it folds into a norm")
    write_weights(checkpoint, tmp_path)
    file = tmp_path / "model-00001.safetensors"
    tensors = load_file(file)
    one, other = (f"model.layers.1.{name}.weight" for name in (before_attention, before_mlp))
    tensors[one], tensors[other] = tensors[other], tensors[one]
    save_file(tensors, file, metadata={"format": "pt"})
    read = read_by_transformers(tmp_path)
    assert apart(logits_of(read), case.foldable_logits) > 0.1


def test_caps_of_scores_that_matter_are_computed_or_refused(tmp_path: Path) -> None:
    folder, checkpoint, out = (tmp_path / name for name in ("model", "checkpoint", "out"))
    checkpoint.mkdir()
    out.mkdir()
    fields = tiny.FURTHER["gemma2"] | {"attn_logit_softcapping": 2.0}
    source = SourceModel.read(tiny.save_model(folder, random_norms=True, **fields))
    model = load_model(source, "cpu", torch.float32)
    expected = logits_of(read_by_transformers(folder))
    assert apart(logits_of(model), expected) < 1e-4 < 0.1 < apart(logits_of(fused(folder)), expected)
    quantize(model, tiny.small_blocks(), tiny.GROUP_SIZE, 4)
    export(model, source, "float16", 1, checkpoint)
    add_measurements(checkpoint, IDS)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["build", "--checkpoint", str(checkpoint), "--out", str(out)])
        assert main() != 0
    failure = json.loads((out / "failure.json").read_text())
    assert "OpenVINO does not cap attention scores" in failure["what"]
    assert failure["fix"] == "choose target vllm or tensorrt_llm"


def test_scales_that_no_norm_can_take_are_refused(case: Case) -> None:
    with pytest.raises(UserError, match="do not fold"):
        list(folded(Checkpoint(case.free)))


LLAMA_LAYER = {
    "input_layernorm.weight": (64,),
    "post_layernorm.weight": (64,),
    **{
        f"{name}.{part}": shape
        for name, (rows, columns) in {
            "attention.qkv": (128, 64), "attention.dense": (64, 64),
            "mlp.fc": (96, 64), "mlp.gate": (96, 64), "mlp.proj": (64, 96),
        }.items()
        for part, shape in {
            "weight": (rows // 2, columns),
            "weights_scaling_factor": (rows, columns // tiny.GROUP_SIZE),
            "prequant_scaling_factor": (columns,),
        }.items()
    },
}  # fmt: skip
QWEN3_LAYER = {
    "attention.qkv.weight": (128, 64),
    "attention.qkv.weights_scaling_factor": (256, 4),
    "attention.dense.weight": (32, 128),
    "attention.dense.weights_scaling_factor": (64, 8),
    "attention.dense.prequant_scaling_factor": (128,),
    "attention.q_layernorm.weight": (32,),
    "attention.k_layernorm.weight": (32,),
}
GEMMA2_LAYER = {"pre_feedforward_layernorm.weight": (64,), "post_feedforward_layernorm.weight": (64,)}
# By upstream's models/{llama,qwen,gemma}/{config,model}.py, layers/attention.py and quantization/layers.py.
UPSTREAM: dict[str, tuple[dict[str, tuple[int, ...]], dict[str, Any]]] = {
    "Qwen3ForCausalLM": (QWEN3_LAYER, {"qwen_type": "qwen3", "attn_bias": False, "head_size": 32}),
    "MistralForCausalLM": ({}, {"hidden_act": "silu", "attn_bias": False, "mlp_bias": False}),
    "GraniteForCausalLM": (
        {},
        {
            "embedding_multiplier": 12.0,
            "attention_multiplier": 0.0625,  # 0.015625 x the square root of heads of 16
            "residual_multiplier": 0.22,
            "output_multiplier_scale": 0.125,
        },
    ),
    "Gemma2ForCausalLM": (
        GEMMA2_LAYER,
        {
            "inter_layernorms": True,
            "hidden_act": "gelu_pytorch_tanh",
            "query_pre_attn_scalar": 24,
            "final_logit_softcapping": 3.0,
            "attn_logit_softcapping": 50.0,
            "share_embedding_table": True,
        },
    ),
}


def test_tensorrt_llm_finds_its_names_shapes_and_fields(case: Case) -> None:
    row = ARCHITECTURES[case.source.config.architecture]
    if "tensorrt_llm" in row.refused or case.source.config.rope_scaling:
        pytest.skip("refused for this target, or tried with the same architecture")
    config = json.loads((case.free / "config.json").read_text())
    layer, fields = UPSTREAM[config["architecture"]]
    tensors = load_file(case.free / "rank0.safetensors")
    of_model = {"transformer.vocab_embedding.weight", "transformer.ln_f.weight"}
    of_model |= set() if config["share_embedding_table"] else {"lm_head.weight"}
    of_layer = {**LLAMA_LAYER, **layer}
    expected = {f"transformer.layers.{i}.{name}": shape for i in (0, 1) for name, shape in of_layer.items()}
    assert {name: tuple(tensors[name].shape) for name in tensors.keys() - of_model} == expected
    assert of_model <= tensors.keys()
    assert fields.items() <= config.items()
    assert config["quantization"]["exclude_modules"] == ["lm_head"]
    if row.norm_offset:
        weight = tiny.weights(case.folder)["model.layers.0.input_layernorm.weight"]
        torch.testing.assert_close(tensors["transformer.layers.0.input_layernorm.weight"], (weight + 1).half())
