"""Presets: requests for common models with limits that a common GPU holds. People start from one and change it.

The rule behind the limits, kept by tests/include/requests/test_presets.py with the estimates that `check_request` uses:

- 24 GB: calibration, build, and serving a full batch of longest requests each fit a GPU of their own.
- 80 GB: each also fits beside a live server of the same preset, so that one GPU releases without downtime.

Calibration takes AWQ's own 128 x 512 tokens (arXiv 2306.00978), for which the built-in text is long enough. The data
type is the one that the model was trained in: Qwen2.5 overflows float16 (QwenLM/Qwen3#761). Models after Llama 2 lose
more to int4 (arXiv 2404.14047): their perplexity may rise by a tenth.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from include.requests.release import ReleaseRequest


@dataclass(frozen=True)
class Preset:
    """A request with a name. ``licence``: under which terms its model is, and whether the Hub wants a token for it."""

    name: str
    title: str
    device: str
    licence: str
    request: ReleaseRequest

    @property
    def conf(self) -> dict[str, Any]:
        """The conf of a run with every field: pasted into the form, it shows all that will count."""
        return self.request.model_dump(mode="json")

    @property
    def changed(self) -> dict[str, Any]:
        """The fields in which it differs from the form's defaults."""
        defaults = ReleaseRequest().model_dump(mode="json")
        return {name: value for name, value in self.conf.items() if value != defaults[name]}


@dataclass(frozen=True)
class _Model:
    """``length``: the longest prompt and answer, in tokens. ``batches``: the batch size on each of `_GPUS`."""

    name: str
    title: str
    licence: str
    id: str
    length: int
    batches: tuple[int, ...]
    dtype: str = "bfloat16"
    max_perplexity_increase: float = 0.1


@dataclass(frozen=True)
class _Gpu:
    """``kv_cache``: share of the free memory that the KV cache takes. Half leaves room for the next candidate."""

    name: str
    title: str
    kv_cache: float


_GPUS = (_Gpu("24gb", "24 GB GPU", 0.85), _Gpu("80gb", "80 GB GPU", 0.5))
_TOKEN = "Connection huggingface_default needs a Hub token"  # noqa: S105 - no secret
_MODELS = (
    _Model(
        name="llama-2-7b",
        title="Llama 2 7B",
        licence="Llama 2 Community License. This copy of Meta's weights is not gated.",
        id="NousResearch/Llama-2-7b-hf",
        dtype="float16",
        length=4096,
        max_perplexity_increase=0.05,
        batches=(4, 6),
    ),
    _Model(
        name="llama-3.1-8b-instruct",
        title="Llama 3.1 8B Instruct",
        licence=f"Llama 3.1 Community License. Gated: accept it on the model's page; {_TOKEN}.",
        id="meta-llama/Llama-3.1-8B-Instruct",
        length=8192,
        batches=(8, 12),
    ),
    _Model(
        name="qwen2.5-7b-instruct",
        title="Qwen2.5 7B Instruct",
        licence="Apache 2.0. Not gated.",
        id="Qwen/Qwen2.5-7B-Instruct",
        length=8192,
        batches=(16, 24),
    ),
    _Model(
        name="mistral-7b-instruct",
        title="Mistral 7B Instruct v0.3",
        licence=f"Apache 2.0. If its page asks you to agree to something first, it is gated: {_TOKEN}.",
        id="mistralai/Mistral-7B-Instruct-v0.3",
        length=8192,
        batches=(8, 12),
    ),
)


def _on_gpu(model: _Model, gpu: _Gpu, batch: int) -> Preset:
    """A quarter of the length is kept for the answer."""
    fields = {
        "model": model.id,
        "target": "tensorrt_llm",
        "dtype": model.dtype,
        "awq_group_size": 128,
        "calib_size": 128,
        "calib_seq_len": 512,
        "max_batch_size": batch,
        "max_input_len": model.length * 3 // 4,
        "max_seq_len": model.length,
        "max_num_tokens": model.length,
        "kv_cache_memory_fraction": gpu.kv_cache,
        "max_perplexity_increase": model.max_perplexity_increase,
    }
    request = ReleaseRequest.parse(fields)
    return Preset(f"{model.name}-{gpu.name}", model.title, gpu.title, model.licence, request)


# The form's defaults are for this model.
_ON_CPU = Preset("smollm2-135m-cpu", "SmolLM2 135M Instruct", "CPU", "Apache 2.0. Not gated.", ReleaseRequest())

PRESETS = (
    *(_on_gpu(model, gpu, batch) for model in _MODELS for gpu, batch in zip(_GPUS, model.batches, strict=True)),
    _ON_CPU,
)
