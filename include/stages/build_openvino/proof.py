"""The proof of an engine: its perplexity on the checkpoint's held-out text against PyTorch's."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import openvino as ov  # noqa: TID253 - runs only in a target's environment
import openvino_genai as genai
import torch  # noqa: TID253

from include.errors import ToolError, UserError
from include.stages.common import has_native_bfloat16, tell

TOLERANCE = 0.005
EXACT = "exact"
PLUGIN_CONFIGS = {
    # As the weights were calibrated: activations stay floating point.
    EXACT: {
        "INFERENCE_PRECISION_HINT": "f32",
        "DYNAMIC_QUANTIZATION_GROUP_SIZE": "0",
        "KV_CACHE_PRECISION": "f16",
    },
    "fast": {
        "INFERENCE_PRECISION_HINT": "bf16",
        "DYNAMIC_QUANTIZATION_GROUP_SIZE": "32",
        "KV_CACHE_PRECISION": "u8",
    },
}
"""The CPU plugin's properties for each precision of a request."""


def plugin_config(precision: str, has_bfloat16: bool | None = None) -> dict[str, str]:
    """The properties for this host's CPU: without instructions for bfloat16 it would only emulate it, slowly."""
    chosen = PLUGIN_CONFIGS[precision]
    has_bfloat16 = has_native_bfloat16() if has_bfloat16 is None else has_bfloat16
    return chosen if has_bfloat16 else chosen | {"INFERENCE_PRECISION_HINT": "f32"}


@dataclass(frozen=True)
class Proof:
    """The same text through PyTorch on the dequantized checkpoint, and through the engine."""

    torch_perplexity: float
    engine_perplexity: float

    def check(self, precision: str, caps_scores: bool = False) -> None:
        """Raises if the two differ by more than `TOLERANCE`: `UserError` where another precision or target helps."""
        difference = abs(self.engine_perplexity / self.torch_perplexity - 1)
        # Written so that a NaN fails too.
        if difference <= TOLERANCE:
            return
        what = (
            f"the engine's perplexity is {self.engine_perplexity:.4f}, PyTorch's {self.torch_perplexity:.4f}: "
            f"{difference:.2%} apart, {TOLERANCE:.1%} are allowed"
        )
        if caps_scores:
            raise UserError(
                f"OpenVINO does not cap attention scores, as this model does: {what}",
                where="field target",
                fix="choose target vllm or tensorrt_llm",
            )
        if precision == EXACT:
            raise ToolError(what, fix="report this: the engine does not compute what the checkpoint says")
        raise UserError(
            f"this model loses too much with precision {precision}: {what}",
            where="field precision",
            fix=f"choose precision {EXACT} and trigger the DAG again: the checkpoint is kept",
        )


def engine_perplexity(folder: Path, blocks: torch.Tensor, properties: dict[str, str]) -> float:
    """Perplexity of the engine in ``folder`` on ``blocks`` (int64 [samples, length]), by the pipeline that serves it.

    So the KV cache is read as it is kept; a single pass over a graph would never see its precision.
    """
    pipeline = genai.ContinuousBatchingPipeline(str(folder), genai.SchedulerConfig(), "CPU", properties)
    asked = genai.GenerationConfig(max_new_tokens=1, echo=True, logprobs=1, ignore_eos=True)
    losses = []
    for number, block in enumerate(blocks):
        handle = pipeline.add_request(number, ov.Tensor(block.numpy()[None]), asked)
        while pipeline.has_non_finished_requests():
            pipeline.step()
        # The first token has no likelihood, and the last is the one new token.
        (output,) = handle.read_all()
        tell(f"sample {number + 1} of {len(blocks)}", (number + 1) / len(blocks))
        losses.append(-np.mean(output.generated_log_probs[1 : len(block)]))
    return math.exp(np.mean(losses))
