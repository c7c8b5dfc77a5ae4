"""Estimates, from a model's dimensions alone, of the bytes that files, memory and GPUs must hold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from include.errors import HostError
from include.host.gpus import Gpu
from include.model.config import DTYPE_BYTES, DType, ModelConfig
from include.requests.release import ReleaseRequest

GIB = 1 << 30
MIB = 1 << 20
# CUDA context, libraries' work spaces and the allocator's rounding: what an otherwise empty process takes, rounded up.
OVERHEAD = 3 * GIB // 2
# Triton and its Python models: 0.2 GiB with a tiny engine; with SmolLM2-135M they took 0.53 GiB in all (November 2026).
HOST_OVERHEAD = 3 * GIB // 10


def model_bytes(config: ModelConfig, dtype: DType | None = None) -> int:
    """The weights in ``dtype`` (else as stored): parameters x bytes of the type."""
    return config.parameters * DTYPE_BYTES[dtype or config.dtype]


def checkpoint_bytes(config: ModelConfig, request: ReleaseRequest) -> int:
    """A TensorRT-LLM checkpoint in the request's format, of all ranks together.

    linear weights (int4_awq: 1/2 byte, and a float32 scale a group; fp8: 1 byte) + 2 x (embedding and output
    layer, which ModelOpt writes apart even for a tied model, norms, biases, and AWQ's scale for each input of
    qkv, attention output, gate, up, down).
    """
    inputs = config.layers * (3 * config.hidden_size + config.heads * config.head_dim + config.intermediate_size)
    halves = 2 * config.vocab_size * config.hidden_size + config.norm_and_bias_weights + inputs
    return _linear_bytes(config, request, 4) + 2 * halves


def engine_bytes(config: ModelConfig, request: ReleaseRequest) -> int:
    """An engine, at most: as the checkpoint, but with 16-bit scales, and none for inputs."""
    halves = 2 * config.vocab_size * config.hidden_size + config.norm_and_bias_weights
    return _linear_bytes(config, request, 2) + 2 * halves


def _linear_bytes(config: ModelConfig, request: ReleaseRequest, scale: int) -> int:
    return request.format.linear_bytes(config.linear_weights, request.awq_group_size, scale)


def pipeline_disk_bytes(config: ModelConfig, request: ReleaseRequest) -> int:
    """The disk that a whole run takes at its peak besides the model's own files.

    Checkpoint + engine + the model in 16 bits, which the build unpacks meanwhile, + 5 % and 64 MB for
    tokenizers, reports and logs. The repository and the release are hard links.
    """
    files = checkpoint_bytes(config, request) + engine_bytes(config, request) + model_bytes(config, "float16")
    return files + files // 20 + 64_000_000


def calibration_bytes(config: ModelConfig, batch: int, seq_len: int, dtype: DType = "float16") -> int:
    """Memory that calibration takes at its peak, for ``batch`` samples of ``seq_len`` tokens at once.

    Weights + 2 x tokens x (KV cache + logits + the MLP's three activations with AWQ's two outputs and
    their float32 difference and square + six hidden states). The factor 2 is for the allocator; it is set
    by Llama-2-7B with 32 x 512 tokens in float16 on an H100, which took 36 GiB (this gives 38).
    """
    size = DTYPE_BYTES[dtype]
    mlp = config.intermediate_size * (5 * size + 8)
    token = kv_cache_bytes_per_token(config, dtype) + (config.vocab_size + 6 * config.hidden_size) * size + mlp
    return model_bytes(config, dtype) + 2 * batch * seq_len * token


def kv_cache_bytes_per_token(config: ModelConfig, dtype: DType = "float16") -> int:
    """KV cache of one token, over all ranks: 2 x layers x key-value heads x head size x bytes of the type."""
    return 2 * config.layers * config.kv_heads * config.head_dim * DTYPE_BYTES[dtype]


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
    """The estimates for each of the request's ``tp_size`` GPUs."""
    tp = request.tp_size
    engine = engine_bytes(config, request) // tp
    activations = activation_bytes(config, request)
    sequence = request.max_seq_len * kv_cache_bytes_per_token(config, request.dtype) // tp
    fixed = engine + activations + OVERHEAD
    return GpuMemory(
        calibrate=_calibration_of_each(config, request),
        build=2 * engine + activations + OVERHEAD,
        serve=fixed + int(sequence / request.kv_cache_memory_fraction),
        serve_full=fixed + int(request.max_batch_size * sequence / request.kv_cache_memory_fraction),
    )


def host_serve_bytes(config: ModelConfig, request: ReleaseRequest) -> int:
    """Host memory of a server on the CPU, at least: engine + KV cache of one sequence of full length + overhead."""
    sequence = request.max_seq_len * kv_cache_bytes_per_token(config)
    return engine_bytes(config, request) + sequence + HOST_OVERHEAD


def _calibration_of_each(config: ModelConfig, request: ReleaseRequest) -> int:
    """Calibration with one sample at a time: the halving of the batch ends there.

    `calibration_bytes` for a batch of 1, shared by the GPUs, + overhead; on more than one GPU also
    the embeddings in 16 bits, which one of them holds whole.
    """
    one = calibration_bytes(config, 1, request.calib_seq_len, request.dtype)
    uneven = 2 * config.embedding_weights if request.tp_size > 1 else 0
    return one // request.tp_size + uneven + OVERHEAD


def activation_bytes(config: ModelConfig, request: ReleaseRequest) -> int:
    """An engine's work space: TensorRT keeps one layer's activations for max_num_tokens, and the logits.

    max_num_tokens x 2 bytes x (6 x hidden + 3 x intermediate / TP) + max_batch_size x vocabulary x 8 bytes.
    """
    layer = 6 * config.hidden_size + 3 * config.intermediate_size // request.tp_size
    return request.max_num_tokens * 2 * layer + request.max_batch_size * config.vocab_size * 8


def check_fits(memory: GpuMemory, gpus: Sequence[Gpu]) -> None:
    """Raises `HostError` if a stage needs more than is free on the smallest of ``gpus``, with the field to lower."""
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
