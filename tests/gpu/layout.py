"""Where things are on a bare GPU host: programs under one root that containers see, data beside it.

Standard library only: it is read before anything is installed.
"""

from __future__ import annotations

from pathlib import Path

PYTHON = "3.12"
PART_BYTES = 56_000_000

AIRFLOW, VLLM, MODELOPT, DOCKER, MODEL = "airflow", "vllm", "modelopt", "docker", "SmolLM2-135M-Instruct"
ARCHIVES = (AIRFLOW, VLLM, MODELOPT, DOCKER, MODEL)
SITE = Path("lib") / f"python{PYTHON}" / "site-packages"

# torch and what belongs to it, as distributions are named, and the packages of theirs that have other names.
ON_THE_HOST = ("torch", "torchvision", "torchaudio", "triton", "numba", "llvmlite", "nvidia-*", "cuda-*")
THEIR_PACKAGES = ("torchgen", "functorch", "nvidia", "cuda")

ROOT = Path("/opt/hf2triton-gpu")
"""Below /opt, which every container of `tests.gpu.runtime` sees."""
DATA = Path("/var/lib/hf2triton-gpu")
TRTLLM = ROOT / "trtllm"
"""The tools of a stand-in for NVIDIA's TensorRT-LLM image."""
TRITON = Path("/opt/tritonserver")
"""Where NVIDIA's images have it; here a link to that of the wheel."""
PYTRITON = ROOT / VLLM / SITE / "pytriton" / "tritonserver"
VLLM_IMAGE, TRTLLM_IMAGE = "hf2triton/bare-vllm:latest", "hf2triton/bare-trtllm:latest"
