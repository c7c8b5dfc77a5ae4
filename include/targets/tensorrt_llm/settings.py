"""The settings of the target, each of them an environment variable ``HF2TRITON_TRTLLM_<NAME>``."""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

IMAGE = "nvcr.io/nvidia/tritonserver:26.07-trtllm-python-py3"
"""TensorRT-LLM 1.2.1, TensorRT 10.14.1.48, CUDA 13.1, Python 3.12: the last images that can build engines."""

PluginType = Literal["auto", "float16", "bfloat16", "float32"]


class TensorRTLLMSettings(BaseSettings):
    """The image, the limits on a host, and the options that no form field carries."""

    model_config = SettingsConfigDict(env_prefix="HF2TRITON_TRTLLM_", frozen=True, extra="ignore")

    image: str = Field(default=IMAGE, description="Calibrates, builds and serves. Never changed, nothing is put in.")
    digests: frozenset[str] = Field(
        default=frozenset(),
        description='Accepted digests of the image, a JSON list: ["sha256:..."]. Empty: any. Manifests record it.',
    )
    min_driver: str = Field(
        default="580.65.06",
        pattern=r"^\d+(\.\d+)*$",
        description="Oldest NVIDIA driver: CUDA 13.0's, which runs all of CUDA 13. On a data-center GPU the image's "
        "CUDA compatibility package may accept an older branch: NVIDIA's release notes of the image say which.",
    )
    busy_mib: int = Field(default=1024, ge=0, description="A GPU with more memory in use than this is taken.")
    network: Literal["bridge", "host"] = Field(
        default="bridge", description="bridge: ports published on 127.0.0.1; host: Triton listens on it itself."
    )
    gemm_plugin: PluginType | Literal["disable"] = Field(
        default="auto", description="trtllm-build --gemm_plugin; auto is the checkpoint's type. Not for int4 layers."
    )
    gpt_attention_plugin: PluginType = Field(default="auto", description="trtllm-build --gpt_attention_plugin.")
    batch_scheduler_policy: Literal["guaranteed_no_evict", "max_utilization"] = Field(
        default="guaranteed_no_evict",
        description="guaranteed_no_evict: a request that has started is never paused. max_utilization: fuller batches.",
    )
    max_tokens_in_paged_kv_cache: int | None = Field(
        default=None, ge=1, description="Upper limit of the KV cache in tokens; the memory fraction limits it as well."
    )
    max_queue_size: int = Field(default=0, ge=0, description="Requests that may wait; 0 sets no limit.")
