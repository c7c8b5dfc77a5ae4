"""Loads an engine into vLLM."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer  # noqa: TID253 - runs in the target's environment only

_FOLDER = "hf2triton-vllm-"
_CACHE = "cache"


@dataclass(frozen=True)
class EngineConfig:
    """The engine's own limits, from its config.json, and the arguments that vLLM compiled it with."""

    vocab_size: int
    arguments: dict[str, Any]

    @classmethod
    def read(cls, engine_dir: Path) -> EngineConfig:
        """Reads ``config.json`` and ``engine.json`` of ``engine_dir``."""
        fields = json.loads((engine_dir / "config.json").read_text())
        return cls(fields["vocab_size"], json.loads((engine_dir / "engine.json").read_text())["arguments"])


@dataclass(frozen=True)
class Capacity:
    """How much GPU memory is used: ``fraction`` of what is free, and no more than ``enough_bytes``, 0 for no limit."""

    fraction: float
    enough_bytes: int

    @classmethod
    def of(cls, values: Mapping[str, str]) -> Capacity:
        """Reads the model's parameters."""
        return cls(float(values["kv_cache_free_gpu_mem_fraction"]), int(values["kv_cache_bytes"]))

    def share_of(self, free: int, total: int) -> float:
        """vLLM's ``gpu_memory_utilization`` for a GPU with ``free`` of ``total`` bytes: weights, work space and cache.

        vLLM counts what others use of the GPU as used, so their share is not in it.
        """
        wanted = int(free * self.fraction)
        return (min(wanted, self.enough_bytes) if self.enough_bytes else wanted) / total


@dataclass(frozen=True)
class Tokenizer:
    """The facts about the tokenizer, by which vLLM bans words."""

    eos_id: int | None

    def get_eos_token_id(self) -> int | None:
        """The token that ends a text."""
        return self.eos_id

    def get_vocab(self) -> bool:
        """True: vLLM knows the texts of all tokens."""
        return True


def load_tokenizer(tokenizer_dir: Path) -> Tokenizer:
    """The model's tokenizer."""
    return Tokenizer(AutoTokenizer.from_pretrained(str(tokenizer_dir)).eos_token_id)


def load_compiler(tokenizer: Tokenizer, vocab_size: int) -> None:
    """None: vLLM bans words without compiling them."""


def load_pipeline(
    engine_dir: Path, tokenizer: Tokenizer, config: EngineConfig, capacity: Capacity
) -> Callable[[], Any]:
    """A function that starts vLLM's ``AsyncLLM`` on the engine."""
    return partial(_start, engine_dir, config.arguments, capacity)


def _start(engine_dir: Path, arguments: Mapping[str, Any], capacity: Capacity) -> Any:  # noqa: ANN401
    # Triton's stub is no interpreter that vLLM's processes could be started with.
    python = shutil.which("python3") or sys.executable
    sys.executable = python
    multiprocessing.set_executable(python)
    os.environ.setdefault("VLLM_WORKER_MULTIPROC_METHOD", "spawn")
    # vLLM's cache is found by the model's path and names its own files: both from here, as at the build.
    os.chdir(_work_folder(engine_dir))
    os.environ |= _caches()
    from vllm import AsyncEngineArgs
    from vllm.v1.engine.async_llm import AsyncLLM

    share = min(capacity.share_of(*memory) for memory in _memory())
    return AsyncLLM.from_engine_args(AsyncEngineArgs(**arguments, gpu_memory_utilization=share))


def _caches() -> dict[str, str]:
    """The variables for what vLLM, Triton and the driver compiled at the build, as include.stages.build_vllm.proof."""
    cuda = Path(_CACHE, "cuda").absolute()
    return {"VLLM_CACHE_ROOT": _CACHE, "TRITON_CACHE_DIR": f"{_CACHE}/triton", "CUDA_CACHE_PATH": str(cuda)}


def _work_folder(engine_dir: Path) -> Path:
    """The engine by links, with a copy of its compile cache: vLLM writes to that, and an engine does not change.

    The folders of servers that have ended are removed here, for a server may end without a last word.
    """
    for left in Path(tempfile.gettempdir()).glob(f"{_FOLDER}*"):
        if not Path("/proc", left.name.removeprefix(_FOLDER).partition("-")[0]).exists():
            shutil.rmtree(left, ignore_errors=True)
    folder = Path(tempfile.mkdtemp(prefix=f"{_FOLDER}{os.getpid()}-"))
    for path in engine_dir.absolute().iterdir():
        if path.name == _CACHE:
            shutil.copytree(path, folder / _CACHE)
        else:
            (folder / path.name).symlink_to(path)
    return folder


def _memory() -> list[tuple[int, int]]:
    """Free and total bytes of each GPU that this server may use; CUDA itself is left to vLLM's processes."""
    import pynvml

    pynvml.nvmlInit()
    try:
        ids = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
        found = [_handle(pynvml, name) for name in ids] or [
            pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(pynvml.nvmlDeviceGetCount())
        ]
        infos = [pynvml.nvmlDeviceGetMemoryInfo(handle) for handle in found]
        return [(int(info.free), int(info.total)) for info in infos]
    finally:
        pynvml.nvmlShutdown()


def _handle(pynvml: Any, name: str) -> Any:  # noqa: ANN401
    return pynvml.nvmlDeviceGetHandleByIndex(int(name)) if name.isdigit() else pynvml.nvmlDeviceGetHandleByUUID(name)
