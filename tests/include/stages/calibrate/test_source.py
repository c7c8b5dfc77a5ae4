# ruff: noqa: TID253
from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from include.errors import UserError
from include.model.config import ModelConfig
from include.stages.calibrate.parser import Options
from include.stages.calibrate.source import SourceModel
from include.stages.calibrate.stage import check
from tests.include.model.configs import BAD_CONFIGS
from tests.support import tiny_models as tiny
from tests.support.tiny_files import CONFIG


def test_reads_a_config(llama: Path) -> None:
    source = SourceModel.read(llama)
    assert source.config.architecture == "LlamaForCausalLM"
    assert (source.config.heads, source.config.kv_heads, source.config.head_dim) == (4, 2, 16)
    assert (source.config.rope_theta, source.config.rope_scaling) == (50000.0, None)
    assert source.weight_bytes == (llama / "model.safetensors").stat().st_size
    source.config.check_calibration(group=16, seq_len=256, tp=2)


SCALING = {"rope_type": "linear", "factor": 8.0}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        pytest.param({"rope_scaling": SCALING}, (50000.0, SCALING), id="scaling"),
        pytest.param({"rope_scaling": {"rope_type": "default"}}, (50000.0, None), id="default is none"),
        pytest.param(
            {"rope_theta": None, "rope_parameters": {"rope_theta": 1e6, "rope_type": "default"}},
            (1e6, None),
            id="transformers 5",
        ),
        pytest.param(
            {"rope_theta": None, "rope_parameters": {"rope_theta": 1e6, **SCALING}},
            (1e6, SCALING),
            id="transformers 5 with scaling",
        ),
        pytest.param({"rope_theta": None}, (10000.0, None), id="absent"),
    ],
)
def test_rotary_settings(llama: Path, changes: dict[str, object], expected: tuple[float, object]) -> None:
    tiny.change_config(llama, **changes)
    source = SourceModel.read(llama)
    assert (source.config.rope_theta, source.config.rope_scaling) == expected


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        pytest.param(
            {"architectures": ["GPT2LMHeadModel"]},
            r"architecture GPT2LMHeadModel is not supported(.|\n)*Llama(.|\n)*Mistral(.|\n)*Qwen2",
            id="architecture",
        ),
        pytest.param({"architectures": None}, "that config.json leaves out is not supported", id="no architecture"),
        pytest.param({"rope_scaling": {"type": "longrope"}}, "longrope is not supported", id="rotary scaling"),
        pytest.param({"hidden_size": None}, "hidden_size: Field required", id="no hidden size"),
    ],
)
def test_refuses_a_model_by_its_config(llama: Path, changes: dict[str, object], message: str) -> None:
    tiny.change_config(llama, **changes)
    with pytest.raises(UserError, match=message) as caught:
        SourceModel.read(llama)
    assert "field model" in caught.value.where


@pytest.mark.parametrize(
    ("group_size", "seq_len", "tp_size", "field", "message"),
    [
        pytest.param(64, 8, 1, "awq_group_size", r"down 96(.|\n)*use 32", id="group size"),
        pytest.param(32, 8, 2, "awq_group_size", r"each of 2 ranks: down 48(.|\n)*use 16", id="group size on a rank"),
        pytest.param(7, 8, 1, "awq_group_size", r"qkv, gate, up 64(.|\n)*use 32", id="odd group size"),
        pytest.param(16, 257, 1, "calib_seq_len", r"257(.|\n)*at most 256", id="sequence length"),
        pytest.param(16, 8, 3, "tp_size", "cannot share 4 heads", id="heads"),
        pytest.param(16, 8, 4, "tp_size", "2 key-value heads", id="key value heads"),
    ],
)
def test_refuses_options_that_do_not_fit(
    llama: Path, group_size: int, seq_len: int, tp_size: int, field: str, message: str
) -> None:
    with pytest.raises(UserError) as caught:
        SourceModel.read(llama).config.check_calibration(group_size, seq_len, tp_size)
    assert caught.value.where == f"field {field}"
    caught.match(message)


def test_says_when_no_group_size_fits(llama: Path) -> None:
    tiny.change_config(llama, intermediate_size=90)
    with pytest.raises(UserError, match="no group size fits"):
        ModelConfig.read(llama).check_calibration(64, 8, 1)


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-10])


def _scramble_header(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[8:12] = b"\x00\xff\x00\xff"
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        pytest.param(Path.unlink, "is missing", id="missing"),
        pytest.param(_truncate, "not a valid safetensors file: .*incomplete", id="truncated"),
        pytest.param(_scramble_header, "not a valid safetensors file: .*header", id="header"),
        pytest.param(lambda path: path.write_bytes(b"abc"), "not a valid safetensors file: .*header", id="too small"),
    ],
)
def test_names_the_damaged_weight_file(llama: Path, damage: object, message: str) -> None:
    damage(llama / "model.safetensors")
    with pytest.raises(UserError, match=f"model.safetensors (is )?{message}"):
        SourceModel.read(llama)


def test_names_the_shard_that_lacks_a_tensor(llama: Path) -> None:
    tensors = tiny.weights(llama)
    (llama / "model.safetensors").unlink()
    names = sorted(tensors)
    shards = {"model-1.safetensors": names[:5], "model-2.safetensors": names[5:]}
    for file, part in shards.items():
        save_file({name: tensors[name] for name in part}, llama / file)
    index = {"metadata": {}, "weight_map": {name: file for file, part in shards.items() for name in part}}
    (llama / "model.safetensors.index.json").write_text(json.dumps(index))
    assert SourceModel.read(llama).weight_bytes == sum((llama / file).stat().st_size for file in shards)

    index["weight_map"]["lost"] = "model-2.safetensors"
    (llama / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(UserError, match=r"model-2\.safetensors lacks the tensor lost"):
        SourceModel.read(llama)


@pytest.mark.parametrize("content", ["{", "[]"], ids=["cut off", "no object"])
def test_names_a_config_that_is_no_json_object(llama: Path, content: str) -> None:
    (llama / "config.json").write_text(content)
    with pytest.raises(UserError, match=r"config\.json"):
        SourceModel.read(llama)


@pytest.mark.parametrize("fields", BAD_CONFIGS.values(), ids=BAD_CONFIGS)
def test_the_stage_refuses_what_its_config_is_refused_for(llama: Path, fields: dict[str, object]) -> None:
    (llama / "config.json").write_text(json.dumps(CONFIG | fields))
    with pytest.raises(UserError) as by_the_config:
        ModelConfig.read(llama).check_calibration(64, 64, 1)
    with pytest.raises(UserError) as by_the_stage:
        check(Options(model=llama, out=llama, group_size=64, calib_seq_len=64))
    assert by_the_stage.value.to_dict() == by_the_config.value.to_dict()


Change = Callable[[dict[str, torch.Tensor]], object]


@pytest.mark.parametrize(
    ("change", "named"),
    [
        pytest.param(
            lambda t: t.update(
                {f"model.layers.{n}.self_attn.{p}_proj.bias": torch.ones(8) for n in (0, 1) for p in "qkv"}
            ),
            r"6 tensors .* model\.layers\.0\.self_attn\.k_proj\.bias",
            id="biases of attention",
        ),
        pytest.param(
            lambda t: t.update({"model.layers.1.mlp.up_proj.bias": torch.ones(96)}),
            r"1 tensors .* model\.layers\.1\.mlp\.up_proj\.bias",
            id="bias of the MLP",
        ),
        pytest.param(
            lambda t: t.update({"model.layers.2.input_layernorm.weight": torch.ones(64)}),
            r"model\.layers\.2\.input_layernorm\.weight",
            id="one layer more",
        ),
        pytest.param(
            lambda t: t.update({"model.layers.0.self_attn.q_norm.weight": torch.ones(16)}), r"q_norm", id="another norm"
        ),
        pytest.param(
            lambda t: t.pop("model.layers.1.mlp.up_proj.weight"),
            r"lack 1 weights, model\.layers\.1\.mlp\.up_proj",
            id="no projection",
        ),
        pytest.param(lambda t: t.pop("lm_head.weight"), r"lack the output layer lm_head\.weight", id="no output layer"),
    ],
)
def test_refuses_tensors_that_are_not_those_of_the_configuration(llama: Path, change: Change, named: str) -> None:
    tensors = tiny.weights(llama)
    change(tensors)
    save_file(tensors, llama / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match=named):
        SourceModel.read(llama)


def test_copies_of_what_is_computed_anew_do_no_harm(llama: Path) -> None:
    copies = {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(8)}
    save_file(tiny.weights(llama) | copies, llama / "model.safetensors", metadata={"format": "pt"})
    SourceModel.read(llama)


def test_a_tied_model_may_hold_its_output_layer_or_not(tmp_path: Path) -> None:
    tied = tiny.save_model(tmp_path / "tied", tie_word_embeddings=True)
    SourceModel.read(tied)
    tensors = tiny.weights(tied)
    save_file(tensors | {"lm_head.weight": tensors["model.embed_tokens.weight"].clone()}, tied / "model.safetensors")
    SourceModel.read(tied)
