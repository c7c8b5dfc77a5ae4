# ruff: noqa: TID253
from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import modelopt.torch.quantization as mtq
import pytest
import torch

from include.errors import HostError, ToolError
from include.stages.calibrate.export import export
from include.stages.calibrate.loading import load_model
from include.stages.calibrate.quantize import Slot, quantize, quantize_within_memory
from include.stages.calibrate.source import SourceModel
from include.stages.checkpoint import Checkpoint
from include.stages.formats.int4_awq import Int4Awq
from tests.support import tiny_models as tiny

Failure = Callable[[torch.Tensor], RuntimeError | None]


class Loader:
    """Loads models whose forward fails as it is told, and counts them."""

    def __init__(self, folder: Path, failure: Failure) -> None:
        self.source = SourceModel.read(folder)
        self.failure = failure
        self.batches: list[int] = []
        self.loaded = 0

    def __call__(self) -> Any:
        model = load_model(self.source, "cpu", torch.float32)
        # Late in the network, so that statistics of earlier layers are there already.
        model.model.layers[1].register_forward_pre_hook(self._before)
        self.loaded += 1
        return model

    def _before(self, _: torch.nn.Module, args: tuple[torch.Tensor, ...]) -> None:
        self.batches.append(len(args[0]))
        if error := self.failure(args[0]):
            raise error


def _fails_above(batch: int, error: RuntimeError) -> Failure:
    return lambda hidden: error if len(hidden) > batch else None


CUDA = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")
CPU = RuntimeError("[enforce fail at alloc_cpu.cpp:127] . DefaultCPUAllocator: can't allocate memory")


@pytest.mark.parametrize("error", [CUDA, CPU], ids=["cuda", "cpu"])
def test_out_of_memory_halves_the_batch_and_changes_nothing_else(
    llama: Path, tmp_path: Path, error: RuntimeError
) -> None:
    loader = Loader(llama, _fails_above(2, error))
    slot = Slot(loader)
    blocks = tiny.small_blocks()
    assert quantize_within_memory(slot, blocks, tiny.GROUP_SIZE, 4) == 2
    assert (loader.loaded, loader.batches) == (2, [4, 2, 2, 2, 2])

    undisturbed = load_model(loader.source, "cpu", torch.float32)
    quantize(undisturbed, blocks, tiny.GROUP_SIZE, 2)
    checkpoints = []
    for name, model in {"disturbed": slot.model(), "undisturbed": undisturbed}.items():
        out = tmp_path / name
        out.mkdir()
        export(model, loader.source, "float16", 1, out)
        checkpoints.append((out / "rank0.safetensors").read_bytes())
    assert checkpoints[0] == checkpoints[1]


def test_gives_up_at_batch_size_one(llama: Path) -> None:
    loader = Loader(llama, _fails_above(0, CUDA))
    with pytest.raises(HostError, match="batch size 1 with samples of 32 tokens") as caught:
        quantize_within_memory(Slot(loader), tiny.small_blocks(), tiny.GROUP_SIZE, 4)
    assert caught.value.where == "field calib_seq_len"
    assert loader.batches == [4, 2, 1]


def test_other_errors_are_not_retried(llama: Path) -> None:
    loader = Loader(llama, _fails_above(0, RuntimeError("CUDA error: an illegal memory access")))
    with pytest.raises(RuntimeError, match="illegal memory access"):
        quantize_within_memory(Slot(loader), tiny.small_blocks(), tiny.GROUP_SIZE, 4)
    assert loader.loaded == 1


def test_the_output_head_does_not_run(llama: Path) -> None:
    model = load_model(SourceModel.read(llama), "cpu", torch.float32)
    model.lm_head.register_forward_pre_hook(lambda *_: pytest.fail("the head ran"))
    quantize(model, tiny.small_blocks(), tiny.GROUP_SIZE, 4)
    assert not model.lm_head.weight_quantizer.is_enabled


def test_the_output_head_would_change_nothing(llama: Path, tmp_path: Path) -> None:
    source, blocks = SourceModel.read(llama), tiny.small_blocks()
    alone, whole = (load_model(source, "cpu", torch.float32) for _ in range(2))
    quantize(alone, blocks, tiny.GROUP_SIZE, 4)
    mtq.quantize(whole, Int4Awq().modelopt_config(tiny.GROUP_SIZE), lambda model: model(blocks))
    linears = []
    for name, model in {"alone": alone, "whole": whole}.items():
        (tmp_path / name).mkdir()
        export(model, source, "float16", 1, tmp_path / name)
        linears.append(dict(Checkpoint(tmp_path / name).linears()))
    assert all(torch.equal(linear.ints, linears[1][name].ints) for name, linear in linears[0].items())


def test_group_size_is_modelopts_block_size() -> None:
    config = Int4Awq().modelopt_config(32)
    assert config["quant_cfg"]["*weight_quantizer"]["block_sizes"][-1] == 32
    assert mtq.INT4_AWQ_CFG["quant_cfg"]["*weight_quantizer"]["block_sizes"][-1] == 128


def test_refuses_a_modelopt_whose_config_is_a_list(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mtq, "INT4_AWQ_CFG", {"quant_cfg": [{"quantizer_name": "*weight_quantizer"}]})
    with pytest.raises(ToolError, match=r"use nvidia-modelopt 0\.37"):
        Int4Awq().modelopt_config(64)
