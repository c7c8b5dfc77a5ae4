"""How much a GPU must have, from a model's dimensions alone. Estimates: bytes, on each of ``tp_size`` GPUs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from include.errors import HostError
from include.host.gpus import Gpu

if TYPE_CHECKING:
    from include.model.config import ModelConfig
    from include.requests.release import ReleaseRequest

GIB = 1 << 30
MIB = 1 << 20
# CUDA context, libraries' work spaces and the allocator's rounding: what an otherwise empty process takes, rounded up.
OVERHEAD = 3 * GIB // 2


@dataclass(frozen=True)
class GpuMemory:
    """Bytes that each stage takes of each GPU. ``serve`` is the least that works: one sequence of full length.

    ``serve_full`` lets every request of a full batch be of full length at once.
    """

    calibrate: int
    build: int
    serve: int
    serve_full: int


def estimate(config: ModelConfig, request: ReleaseRequest) -> GpuMemory:
    """The estimates for a model and a request."""
    tp, group = request.tp_size, request.awq_group_size
    engine = config.engine_bytes(group) // tp
    activations = activation_bytes(config, request)
    sequence = request.max_seq_len * config.kv_cache_bytes_per_token(request.dtype) // tp
    fixed = engine + activations + OVERHEAD
    return GpuMemory(
        calibrate=calibration_bytes(config, request),
        build=2 * engine + activations + OVERHEAD,
        serve=fixed + int(sequence / request.kv_cache_memory_fraction),
        serve_full=fixed + int(request.max_batch_size * sequence / request.kv_cache_memory_fraction),
    )


def calibration_bytes(config: ModelConfig, request: ReleaseRequest) -> int:
    """Calibration with one sample at a time, which is where the halving of the batch ends.

    `ModelConfig.calibration_bytes` for a batch of 1, shared by the GPUs, + overhead; on more than one GPU also
    the embeddings in 16 bits, which one of them holds whole.
    """
    one = config.calibration_bytes(1, request.calib_seq_len, request.dtype)
    uneven = 2 * config.embedding_weights if request.tp_size > 1 else 0
    return one // request.tp_size + uneven + OVERHEAD


def activation_bytes(config: ModelConfig, request: ReleaseRequest) -> int:
    """An engine's work space: TensorRT keeps one layer's activations for max_num_tokens, and the logits.

    max_num_tokens x 2 bytes x (6 x hidden + 3 x intermediate / TP) + max_batch_size x vocabulary x 8 bytes.
    """
    layer = 6 * config.hidden_size + 3 * config.intermediate_size // request.tp_size
    return request.max_num_tokens * 2 * layer + request.max_batch_size * config.vocab_size * 8


def check_fits(memory: GpuMemory, gpus: Sequence[Gpu]) -> None:
    """Raises `HostError` if a stage needs more than is free on the smallest of ``gpus``, with what to lower."""
    known = [gpu for gpu in gpus if gpu.memory_total_mib is not None]
    if not known:
        return
    smallest = min(known, key=_free)
    fixes = {
        "calibrate_awq": (memory.calibrate, "lower calib_seq_len, or use more GPUs (tp_size)"),
        "build_engine": (memory.build, "lower max_num_tokens, or use more GPUs (tp_size)"),
        "launch_triton": (memory.serve, "lower max_seq_len or max_num_tokens, or use more GPUs (tp_size)"),
    }
    for task, (needed, fix) in fixes.items():
        if needed > _free(smallest):
            raise HostError(
                f"{task} needs about {needed / GIB:.1f} GiB of GPU memory, {_free(smallest) / GIB:.1f} GiB are free",
                where=f"{smallest}, {len(gpus)} in use",
                fix=fix,
            )


def _free(gpu: Gpu) -> int:
    return ((gpu.memory_total_mib or 0) - (gpu.memory_used_mib or 0)) * MIB
