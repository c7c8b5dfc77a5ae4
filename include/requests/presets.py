"""Presets: requests for common models with limits that a common GPU holds. People start from one and change it.

The rule behind the limits, kept by tests/include/requests/test_presets.py with the estimates that `check_request` uses:

- 24 GB: calibration, build, and serving a full batch of longest requests each fit a GPU of their own.
- 80 GB: each also fits beside a live server of the same preset, so that one GPU releases without downtime.

Calibration takes AWQ's own 128 x 512 tokens (arXiv 2306.00978), for which the built-in text is long enough. The data
type is the one that the model was trained in: Qwen2.5 overflows float16 (QwenLM/Qwen3#761). Models after Llama 2 lose
more to int4 (arXiv 2404.14047): their perplexity may rise by a tenth. Llama 2 and Mistral do not stream: NVIDIA's
postprocessing would drop the spaces between their pieces.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from include.requests.release import ReleaseRequest


@dataclass(frozen=True)
class Preset:
    """A request with a name. ``licence``: the terms of its model, and the need for a Hub token.

    ``runs`` says where it was run; empty: nowhere, its limits are computed.
    """

    name: str
    title: str
    device: str
    licence: str
    request: ReleaseRequest
    runs: str = ""

    @property
    def conf(self) -> dict[str, Any]:
        """The conf of a run with every field: pasted into the form, it shows all that will count."""
        return self.request.model_dump(mode="json")

    @property
    def changed(self) -> dict[str, Any]:
        """The fields in which it differs from the form's defaults."""
        defaults = ReleaseRequest().model_dump(mode="json")
        return {name: value for name, value in self.conf.items() if value != defaults[name]}


_GPUS = (("24gb", "24 GB GPU", 0.85), ("80gb", "80 GB GPU", 0.5))
"""Name, title, and the share of free memory that the KV cache takes: half leaves room for the next candidate."""

_TOKEN = "Connection huggingface_default needs a Hub token"  # noqa: S105 - no secret


def _on_gpus(
    name: str, title: str, licence: str, model: str, *, length: int, batches: tuple[int, ...], **fields: str | float
) -> Iterator[Preset]:
    """A preset for each of `_GPUS`, whose batch sizes are ``batches``.

    ``length``: the longest prompt and answer, in tokens; a quarter is kept for the answer.
    """
    for (gpu, device, kv_cache), batch in zip(_GPUS, batches, strict=True):
        request = {
            "model": model,
            "target": "tensorrt_llm",
            "dtype": "bfloat16",
            "awq_group_size": 128,
            "calib_size": 128,
            "calib_seq_len": 512,
            "max_batch_size": batch,
            "max_input_len": length * 3 // 4,
            "max_seq_len": length,
            "max_num_tokens": length,
            "kv_cache_memory_fraction": kv_cache,
            "max_perplexity_increase": 0.1,
        }
        yield Preset(f"{name}-{gpu}", title, device, licence, ReleaseRequest.parse(request | fields))


PRESETS = (
    *_on_gpus(
        "llama-2-7b",
        "Llama 2 7B",
        "Llama 2 Community License. This copy of Meta's weights is not gated.",
        "NousResearch/Llama-2-7b-hf",
        length=4096,
        batches=(4, 6),
        dtype="float16",
        max_perplexity_increase=0.05,
        streaming=False,
    ),
    *_on_gpus(
        "llama-3.1-8b-instruct",
        "Llama 3.1 8B Instruct",
        f"Llama 3.1 Community License. Gated: accept it on the model's page; {_TOKEN}.",
        "meta-llama/Llama-3.1-8B-Instruct",
        length=8192,
        batches=(8, 12),
    ),
    *_on_gpus(
        "qwen2.5-7b-instruct",
        "Qwen2.5 7B Instruct",
        "Apache 2.0. Not gated.",
        "Qwen/Qwen2.5-7B-Instruct",
        length=8192,
        batches=(16, 24),
    ),
    *_on_gpus(
        "mistral-7b-instruct",
        "Mistral 7B Instruct v0.3",
        f"Apache 2.0. If its page asks you to agree to something first, it is gated: {_TOKEN}.",
        "mistralai/Mistral-7B-Instruct-v0.3",
        length=8192,
        batches=(8, 12),
        streaming=False,
    ),
    # The form's defaults are for this model.
    Preset(
        "smollm2-135m-cpu",
        "SmolLM2 135M Instruct",
        "CPU",
        "Apache 2.0. Not gated.",
        ReleaseRequest(),
        runs="in CI, with fewer calibration tokens",
    ),
)
