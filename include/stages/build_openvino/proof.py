"""The proof of an engine: its perplexity on the checkpoint's held-out text against PyTorch's."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import openvino as ov  # noqa: TID253 - runs only in a target's environment
import torch  # noqa: TID253

from include.errors import ToolError
from include.stages.quality import perplexity

TOLERANCE = 0.005
# As the weights were calibrated: activations stay floating point. By default the CPU plugin computes in bfloat16 and
# quantizes activations and KV cache to 8 bits: perplexity of SmolLM2-135M rises by 0.15 %, and 2 cores generate
# 97 instead of 78 tokens/s for one request, 550 instead of 290 for eight.
PLUGIN_CONFIG = {
    "INFERENCE_PRECISION_HINT": "f32",
    "DYNAMIC_QUANTIZATION_GROUP_SIZE": "0",
    "KV_CACHE_PRECISION": "f16",
}


@dataclass(frozen=True)
class Proof:
    """The same text through PyTorch on the dequantized checkpoint, and through the engine."""

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


def engine_perplexity(path: Path, blocks: torch.Tensor) -> float:
    """Perplexity of the IR at ``path`` on ``blocks`` (int64 [samples, length]), on the CPU as it will serve."""
    request = ov.Core().compile_model(path, "CPU", PLUGIN_CONFIG).create_infer_request()

    def logits(ids: torch.Tensor) -> torch.Tensor:
        request.reset_state()
        length = ids.shape[1]
        result = request.infer(
            {
                "input_ids": ids.numpy(),
                "attention_mask": np.ones((1, length), dtype=np.int64),
                "position_ids": np.arange(length, dtype=np.int64)[None],
                "beam_idx": np.zeros(1, dtype=np.int32),
            }
        )
        return torch.from_numpy(result["logits"][0])

    return perplexity(logits, blocks)
