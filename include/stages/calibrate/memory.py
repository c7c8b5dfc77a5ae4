"""How much memory a calibration takes on the CPU, where running out of it means the kernel ends the process."""

from __future__ import annotations

from pathlib import Path

from include.errors import HostError
from include.model.config import ModelConfig
from include.stages.calibrate.source import SourceModel
from include.stages.common import log

_CGROUP = Path("/sys/fs/cgroup")


def available_bytes() -> int:
    """Memory that this process may still take: the host's, and its container's limit."""
    import psutil

    free: int = psutil.virtual_memory().available
    try:
        limit = int((_CGROUP / "memory.max").read_text())
        return min(free, limit - int((_CGROUP / "memory.current").read_text()))
    except (OSError, ValueError):  # no cgroup v2, or no limit ("max")
        return free


def search_bytes(config: ModelConfig, tokens: int, element_size: int) -> int:
    """Estimate of what the AWQ search takes beside the model.

    Activations: a layer's input, residual, gate, up and two outputs to compare, their difference in float32.
    Weights: the largest layer, scaled and quantized in float32.
    """
    per_token = 8 * element_size * config.hidden_size + (6 * element_size + 12) * config.intermediate_size
    return tokens * per_token + 24 * config.hidden_size * config.intermediate_size


def check_model_fits(source: SourceModel, element_size: int) -> None:
    """Raises `HostError` when the weights alone do not fit. Stored weights have at least two bytes each."""
    needed = source.weight_bytes // 2 * element_size
    if needed > available_bytes():
        raise HostError(
            f"the model takes {_gib(needed)} GiB of memory, {_gib(available_bytes())} GiB are available",
            where="device cpu",
            fix="use a smaller model, or a host or container with more memory",
        )


def batch_that_fits(config: ModelConfig, batch: int, length: int, element_size: int) -> int:
    """``batch``, halved until the estimate fits, 1 at least."""
    free = available_bytes()
    while batch > 1 and search_bytes(config, batch * length, element_size) > free:
        batch = (batch + 1) // 2
        log.info("too little memory (%s GiB available): batch size %d", _gib(free), batch)
    return batch


def _gib(count: int) -> str:
    return f"{count / 2**30:.1f}"
