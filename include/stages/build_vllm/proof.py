"""The proof of an engine: vLLM itself scores the held-out text, with the arguments that it will serve with.

The run also compiles the model for this GPU; vLLM's cache of that stays in the engine, so that a server need not.
"""

from __future__ import annotations

import asyncio
import math
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from include.errors import ToolError
from include.stages.common import log

TOLERANCE = 0.01
"""PyTorch and vLLM both compute in 16 bits, with different kernels: that alone moves a perplexity by a few permille."""

CACHE = "cache"
_SHARE_OF_FREE = 0.9


@dataclass(frozen=True)
class Proof:
    """The same text through PyTorch on the dequantized checkpoint, and through vLLM."""

    torch_perplexity: float
    engine_perplexity: float

    def check(self) -> None:
        """Raises `ToolError` when the two differ by more than `TOLERANCE`."""
        difference = abs(self.engine_perplexity / self.torch_perplexity - 1)
        # Written so that a NaN fails too.
        if not difference <= TOLERANCE:
            raise ToolError(
                f"the engine's perplexity is {self.engine_perplexity:.4f}, PyTorch's {self.torch_perplexity:.4f}: "
                f"{difference:.2%} apart, {TOLERANCE:.1%} are allowed",
                fix="report this: the engine does not compute what the checkpoint says",
            )


def engine_perplexity(folder: Path, arguments: Mapping[str, Any], blocks: list[list[int]]) -> float:
    """Perplexity through vLLM of all tokens but the first of each block."""
    os.environ.setdefault("VLLM_WORKER_MULTIPROC_METHOD", "spawn")
    with _inside(folder):
        os.environ |= caches()
        losses = asyncio.run(_losses(arguments, blocks))
    # Of no use to a server. What stays spares it the compilation, and a process that looks into the model class.
    for name in ("assets", "deep_gemm"):
        shutil.rmtree(folder / CACHE / name, ignore_errors=True)
    # The driver makes its folders for the user alone, and servers may be another's.
    for path in (folder / CACHE).rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)
    return math.exp(sum(losses) / len(losses))


def caches() -> dict[str, str]:
    """The variables for vLLM's cache, for Triton's of the sampler's kernels and for the driver's of those from PTX.

    The first two name their own files: from here, for they move with the engine. Marlin's kernels come as PTX: the
    first pass of an int4 model took 29 s on an H200 without that cache.
    """
    cuda = Path(CACHE, "cuda").absolute()
    return {"VLLM_CACHE_ROOT": CACHE, "TRITON_CACHE_DIR": f"{CACHE}/triton", "CUDA_CACHE_PATH": str(cuda)}


async def _losses(arguments: Mapping[str, Any], blocks: list[list[int]]) -> list[float]:
    from vllm import AsyncEngineArgs
    from vllm.v1.engine.async_llm import AsyncLLM

    engine = AsyncLLM.from_engine_args(AsyncEngineArgs(**arguments, gpu_memory_utilization=_share_of_gpu()))
    try:
        return list(await asyncio.gather(*(_loss(engine, number, block) for number, block in enumerate(blocks))))
    finally:
        engine.shutdown()


def _share_of_gpu() -> float:
    """vLLM's ``gpu_memory_utilization``: a live server may hold the rest of a GPU."""
    import torch

    memory = (torch.cuda.mem_get_info(device) for device in range(torch.cuda.device_count()))
    return min(_SHARE_OF_FREE * float(free) / float(total) for free, total in memory)


async def _loss(engine: Any, number: int, ids: list[int]) -> float:  # noqa: ANN401 - vllm's AsyncLLM
    """Mean negative log likelihood of the block's tokens after the first."""
    from vllm import SamplingParams

    params = SamplingParams(temperature=0, max_tokens=1, prompt_logprobs=0, detokenize=False)
    final = None
    async for output in engine.generate({"prompt_token_ids": ids}, params, request_id=str(number)):
        final = output
    scored = final.prompt_logprobs[1:] if final else []
    loss: float = -sum(scores[token].logprob for scores, token in zip(scored, ids[1:], strict=True)) / len(scored)
    if not math.isfinite(loss):
        raise ToolError(f"vLLM's logits are not finite on held-out sample {number}", fix="use dtype bfloat16")
    log.info("held-out sample %d: %.4f", number, loss)
    return loss


@contextmanager
def _inside(folder: Path) -> Iterator[None]:
    """Runs in the engine's directory: vLLM's cache is found by the model's path, which is ``.`` here and there."""
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)
