"""The settings of the target, each of them an environment variable ``HF2TRITON_VLLM_<NAME>``."""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

IMAGE = "nvcr.io/nvidia/tritonserver:26.08-vllm-python-py3"
"""Triton, its python backend and vLLM 0.27.1, Python 3.12: NVIDIA's monthly image, used as it is."""


class VllmSettings(BaseSettings):
    """The image, the limits on a host, and the options that no form field carries."""

    model_config = SettingsConfigDict(env_prefix="HF2TRITON_VLLM_", frozen=True, extra="ignore")

    image: str = Field(default=IMAGE, description="Calibrates, builds and serves. Never changed, nothing is put in.")
    min_driver: str = Field(
        default="580.65.06",
        pattern=r"^\d+(\.\d+)*$",
        description="Oldest NVIDIA driver: CUDA 13 needs branch 580.",
    )
    busy_mib: int = Field(default=1024, ge=0, description="A GPU with more memory in use than this is taken.")
    network: Literal["bridge", "host"] = Field(
        default="bridge", description="bridge: ports published on 127.0.0.1; host: Triton listens on it itself."
    )
    attention_backend: str | None = Field(
        default=None, description="vLLM's attention backend, such as FLASH_ATTN. None: vLLM chooses."
    )
