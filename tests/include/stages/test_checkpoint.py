# ruff: noqa: TID253
from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from modelopt.torch.export.quant_utils import pack_int4_in_uint8
from safetensors.torch import load_file

from include.errors import UserError
from include.stages.calibrate.export import export
from include.stages.checkpoint import SOURCE_CONFIG_FILE, Checkpoint
from include.stages.formats.int4_awq import QuantizedLinear, unpack_int4
from tests.include.stages.conftest import Calibrated
from tests.support import tiny_models as tiny


def _fake_quantized(module: torch.nn.Module) -> torch.Tensor:
    """ModelOpt's own idea of the quantized weight, for the unscaled input."""
    with torch.no_grad():
        return module.weight_quantizer(module.weight) * module.input_quantizer.pre_quant_scale


def test_unpack_inverts_modelopts_packing() -> None:
    ints = torch.randint(-8, 8, (6, 32), dtype=torch.int8)
    packed = pack_int4_in_uint8(ints.float(), torch.ones(6, 2)).view(torch.int8)
    assert torch.equal(unpack_int4(packed), ints)


def test_dequantized_folds_in_the_scale_of_the_input() -> None:
    linear = QuantizedLinear(
        ints=torch.tensor([[1, -8, 7, 0]], dtype=torch.int8),
        scales=torch.tensor([[0.5, 2.0]]),
        pre_quant_scale=torch.tensor([1.0, 2.0, 3.0, 4.0]),
        bias=None,
    )
    assert linear.group_size == 2
    assert linear.dequantized().tolist() == [[0.5, -8.0, 42.0, 0.0]]


def test_weights_are_modelopts_fake_quantized_ones(calibrated: Calibrated) -> None:
    linears = dict(Checkpoint(calibrated.checkpoint).linears())
    assert len(linears) == 2 * 7
    for name, linear in linears.items():
        expected = _fake_quantized(calibrated.model.get_submodule(name))
        # The file keeps the scale of the input in float16.
        torch.testing.assert_close(linear.dequantized(), expected, rtol=2e-3, atol=1e-6, msg=name)


def test_merged_qkv_is_split(calibrated: Calibrated) -> None:
    packed = load_file(calibrated.checkpoint / "rank0.safetensors")["transformer.layers.1.attention.qkv.weight"]
    linears = dict(Checkpoint(calibrated.checkpoint).linears())
    parts = [linears[f"model.layers.1.self_attn.{letter}_proj"] for letter in "qkv"]
    assert [len(part.ints) for part in parts] == [64, 32, 32]
    assert torch.equal(torch.cat([part.ints for part in parts]), unpack_int4(packed))


def test_biases_are_kept(calibrated: Calibrated) -> None:
    linears = dict(Checkpoint(calibrated.checkpoint).linears())
    for name, linear in linears.items():
        bias = calibrated.model.get_submodule(name).bias
        assert (linear.bias is None) == (bias is None), name
        if bias is not None:
            torch.testing.assert_close(linear.bias.float(), bias.detach(), rtol=1e-3, atol=1e-4)


def test_config_describes_the_source_model(calibrated: Calibrated) -> None:
    config = Checkpoint(calibrated.checkpoint).hf_config()
    expected = calibrated.source.config
    assert config.architectures == [expected.architecture]
    assert getattr(config, "mlp_bias", False) == getattr(calibrated.model.config, "mlp_bias", False)
    assert config.num_hidden_layers == expected.layers
    assert config.num_key_value_heads == expected.kv_heads
    assert config.head_dim == expected.head_dim
    assert config.rope_theta == expected.rope_theta
    assert config.max_position_embeddings == expected.max_position_embeddings
    assert config.vocab_size == expected.vocab_size


def test_a_checkpoint_of_an_earlier_version_describes_the_same_model(calibrated: Calibrated, tmp_path: Path) -> None:
    folder = shutil.copytree(calibrated.checkpoint, tmp_path / "copy")
    (folder / SOURCE_CONFIG_FILE).unlink()
    ids = tiny.small_blocks(1, 32)
    with torch.no_grad():
        earlier, now = (Checkpoint(path).model(torch.float32)(ids).logits for path in (folder, calibrated.checkpoint))
    assert torch.equal(earlier, now)


def test_model_computes_what_the_quantized_model_does(calibrated: Calibrated) -> None:
    ids = tiny.small_blocks(2, 48)
    with torch.no_grad():
        rebuilt = Checkpoint(calibrated.checkpoint).model(torch.float32)(ids).logits
        expected = calibrated.model(ids).logits
    torch.testing.assert_close(rebuilt, expected, rtol=0.02, atol=0.02 * expected.std().item())


def test_two_ranks_merge_into_the_same_model(calibrated: Calibrated, tmp_path: Path) -> None:
    export(calibrated.model, calibrated.source, "float16", 2, tmp_path)
    one, two = Checkpoint(calibrated.checkpoint), Checkpoint(tmp_path)
    assert (one.tp_size, two.tp_size) == (1, 2)
    assert {path.name for path in tmp_path.glob("*.safetensors")} == {"rank0.safetensors", "rank1.safetensors"}
    merged = dict(two.linears())
    for name, linear in one.linears():
        for field in ("ints", "scales", "pre_quant_scale", "bias"):
            whole, joined = getattr(linear, field), getattr(merged[name], field)
            assert (whole is None and joined is None) or torch.equal(whole, joined), (name, field)
    for (name, whole), (_, joined) in zip(one.plain(), two.plain(), strict=True):
        assert torch.equal(whole, joined), name


def test_each_tensor_is_dequantized_where_the_device_map_puts_it(calibrated: Calibrated) -> None:
    devices = {"model": "cpu", "model.layers.1": "meta", "model.layers.1.mlp": "cpu", "lm_head": "meta"}
    state = Checkpoint(calibrated.checkpoint).state(torch.float16, devices)
    reference = Checkpoint(calibrated.checkpoint).state(torch.float16)
    assert state.keys() == reference.keys()
    for name, tensor in state.items():
        elsewhere = name.startswith(("model.layers.1.", "lm_head")) and ".mlp." not in name
        assert tensor.device.type == ("meta" if elsewhere else "cpu"), name
        assert elsewhere or torch.equal(tensor, reference[name]), name


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        pytest.param({"quantization": {"quant_algo": "NVFP4"}}, "quant_algo is NVFP4", id="nvfp4"),
        pytest.param({"quantization": {}}, "quant_algo is None", id="not quantized"),
        pytest.param({"architecture": "GPTJForCausalLM"}, "GPTJForCausalLM is not supported", id="architecture"),
        pytest.param({"mapping": {"tp_size": 1, "pp_size": 2}}, "pipeline-parallel", id="pipeline parallel"),
    ],
)
def test_refuses_what_it_cannot_read(
    calibrated: Calibrated, tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    folder = shutil.copytree(calibrated.checkpoint, tmp_path / "copy")
    tiny.change_config(folder, **changes)
    with pytest.raises(UserError, match=message):
        Checkpoint(folder)


@pytest.mark.parametrize("name", ["config.json", "rank0.safetensors"])
def test_names_the_file_that_is_missing(calibrated: Calibrated, tmp_path: Path, name: str) -> None:
    folder = shutil.copytree(calibrated.checkpoint, tmp_path / "copy")
    (folder / name).unlink()
    with pytest.raises(UserError, match=name):
        Checkpoint(folder)


def test_names_the_tensor_that_is_missing(calibrated: Calibrated, tmp_path: Path) -> None:
    folder = shutil.copytree(calibrated.checkpoint, tmp_path / "copy")
    (folder / "source_config.json").unlink()  # it says how many layers there are, too
    tiny.change_config(folder, num_hidden_layers=3)
    with pytest.raises(UserError, match=r"no tensor transformer\.layers\.2\."):
        Checkpoint(folder).model(torch.float32)
