"""Calibration by NVIDIA ModelOpt, in batches as large as memory allows."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Any

import torch  # noqa: TID253 - runs only in a target's environment

from include.errors import HostError
from include.stages.common import log, tell
from include.stages.formats import DEFAULT, FORMATS
from include.stages.formats.base import Format

_NO_MEMORY = ("CUDA error: out of memory", "CUBLAS_STATUS_ALLOC_FAILED", "DefaultCPUAllocator")


def quantize(
    model: Any,  # noqa: ANN401
    blocks: torch.Tensor,
    group_size: int,
    batch_size: int,
    chosen: Format = FORMATS[DEFAULT],
) -> None:
    """Quantizes ``model`` in place by forwards of ``blocks`` (int64 [samples, length]): 1, or 13 of INT4 AWQ's search.

    Only the decoder stack runs: the output head is not quantized, so its logits change nothing.
    """
    import modelopt.torch.quantization as mtq

    device = model.get_input_embeddings().weight.device
    batches = blocks.to(device).split(batch_size)
    decoder = model.get_decoder()
    told = _Told(len(decoder.layers), len(batches), chosen.passes)
    hooks = [layer.register_forward_hook(told.layer) for layer in decoder.layers]

    def forward(_: object) -> None:
        told.next_pass()
        with torch.no_grad():
            for batch in batches:
                decoder(batch, use_cache=False)

    try:
        mtq.quantize(model, chosen.modelopt_config(group_size), forward)
    finally:
        for hook in hooks:
            hook.remove()


class _Told:
    """Tells how far the search is, from the forwards of the decoder's layers."""

    def __init__(self, layers: int, batches: int, passes: tuple[tuple[str, int], ...]) -> None:
        self._layers, self._batches, self._passes = layers, batches, passes
        self._pass, self._done = -1, 0

    def next_pass(self) -> None:
        self._pass, self._done = min(self._pass + 1, len(self._passes) - 1), 0

    def layer(self, *_: object) -> None:
        self._done += 1
        name, cost = self._passes[self._pass]
        batch, layer = divmod(self._done - 1, self._layers)
        of_batch = f" of batch {batch + 1} of {self._batches}" if self._batches > 1 else ""
        before = sum(cost for _, cost in self._passes[: self._pass])
        share = before + cost * min(self._done / (self._layers * self._batches), 1)
        tell(f"{name}, layer {layer + 1} of {self._layers}{of_batch}", share / sum(cost for _, cost in self._passes))


def compile_extension() -> None:
    """Compiles ModelOpt's CUDA extension, or loads it from TORCH_EXTENSIONS_DIR; without one the search is slow."""
    from modelopt.torch.quantization.extensions import get_cuda_ext

    if get_cuda_ext() is None:
        log.info("ModelOpt's CUDA extension could not be compiled: the search will be slower")


class Slot:
    """Holds the one model in memory, so that it can be given up and loaded again."""

    def __init__(self, load: Callable[[], Any]) -> None:
        self._load = load
        self._model: Any = None

    def model(self) -> Any:  # noqa: ANN401
        """The model, loaded if need be."""
        if self._model is None:
            self._model = self._load()
        return self._model

    def release(self) -> None:
        """Gives the model's memory back; no one else may hold it."""
        self._model = None
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def quantize_within_memory(
    slot: Slot, blocks: torch.Tensor, group_size: int, batch_size: int, chosen: Format = FORMATS[DEFAULT]
) -> int:
    """Quantizes the slot's model, halving the batch each time memory runs out; returns the batch size used.

    A search that was cut off leaves statistics and patched layers behind, so each new try loads the model anew.

    Raises:
        HostError: one sample alone does not fit.
    """
    while not _fits(slot, blocks, group_size, batch_size, chosen):
        slot.release()
        if batch_size == 1:
            raise HostError(
                f"out of memory at batch size 1 with samples of {blocks.shape[1]} tokens",
                where="field calib_seq_len",
                fix="lower calib_seq_len, or use a device with more memory or more GPUs",
            )
        batch_size = (batch_size + 1) // 2
        log.info("out of memory: again with batch size %d", batch_size)
    return batch_size


def is_out_of_memory(error: RuntimeError) -> bool:
    """True if ``error`` is PyTorch's OutOfMemoryError or one of those that have no class of their own."""
    return isinstance(error, torch.OutOfMemoryError) or any(text in str(error) for text in _NO_MEMORY)


def _fits(slot: Slot, blocks: torch.Tensor, group_size: int, batch_size: int, chosen: Format) -> bool:
    try:
        quantize(slot.model(), blocks, group_size, batch_size, chosen)
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        return False
    return True
