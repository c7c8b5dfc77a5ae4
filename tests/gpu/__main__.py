"""The proof on a bare GPU host (Python 3.12 with torch, no network, no Docker), in visits of at most nine minutes.

Elsewhere, ``python -m tests.gpu.pack --model DIR --out DIR`` packs what the host lacks. On the host, as root:

    python3 -m tests.gpu.unpack DIR
    /opt/hf2triton-gpu/airflow/bin/python -m tests.gpu {stages,release,figures,pair} --record FILE

``stages``: the Docker engine's GPUs, calibration and build in containers, killed and taken over, out of memory.
``release``: target vllm through Airflow: two releases, load, rollback, a killed server, two models on the GPU.
``figures``: speed through the live address, of the formats, and the perplexity of FP8. ``pair``: two GPUs.
"""

from __future__ import annotations

import argparse
import importlib
import os
import signal
import sys
from pathlib import Path

from include.errors import HostError
from include.settings import PROJECT
from tests.gpu.layout import AIRFLOW, DATA, MODEL, MODELOPT, ROOT, TRTLLM_IMAGE, VLLM, VLLM_IMAGE
from tests.gpu.visit import Visit, alone

VISITS = ("stages", "release", "figures", "pair")
UNTIL_S = 480.0


def environment(runner: str, data: Path = DATA) -> dict[str, str]:
    """The settings of the visits' deployment."""
    return {
        "HF2TRITON_RUNNER": runner,
        "HF2TRITON_ARTIFACTS": str(data / "artifacts"),
        "HF2TRITON_AIRFLOW_HOME": str(data / "airflow"),
        "AIRFLOW_HOME": str(data / "airflow"),
        "HF2TRITON_GPU_LEASE_DIR": str(data / "artifacts" / "leases"),
        "HF2TRITON_VLLM_PYTHON": str(ROOT / VLLM / "bin" / "python"),
        "HF2TRITON_VLLM_MODELOPT": str(ROOT / MODELOPT),
        "HF2TRITON_VLLM_IMAGE": VLLM_IMAGE,
        "HF2TRITON_VLLM_NETWORK": "host",
        "HF2TRITON_VLLM_ATTENTION_BACKEND": "FLASH_ATTN",
        "HF2TRITON_TRTLLM_IMAGE": TRTLLM_IMAGE,
        "DOCKER_HOST": f"unix://{data}/docker.sock",
        "CUDA_HOME": "/usr/local/cuda",
        # The build leaves vLLM's kernels for FlashInfer out, and so do the programs that are no stage.
        "VLLM_USE_FLASHINFER_SAMPLER": "0",
        "PATH": f"{ROOT / AIRFLOW / 'bin'}{os.pathsep}{ROOT / 'bin'}{os.pathsep}{os.environ['PATH']}",
    }


def end(*_: object) -> None:
    """Ends the visit, and all that it started; `timeout` may send its signal twice."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    sys.exit(124)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("visit", choices=VISITS)
    parser.add_argument("--runner", choices=("process", "docker"), default="docker", help="of visit release")
    parser.add_argument("--model", type=Path, default=ROOT / MODEL)
    parser.add_argument("--only", nargs="+", default=(), metavar="STEP", help="not all steps")
    parser.add_argument("--until", type=float, default=UNTIL_S, help="seconds after which no step begins")
    parser.add_argument("--record", type=Path, help="file for the visit's record")
    options = parser.parse_args()
    try:
        lock = alone(DATA)
    except HostError as error:
        parser.error(str(error))
    os.environ.update(environment(options.runner if options.visit == "release" else "docker"))
    sys.path.append(str(PROJECT / "plugins"))
    signal.signal(signal.SIGTERM, end)
    visit = Visit(options.visit, options.until, frozenset(options.only), options.record)
    with lock:
        importlib.import_module(f"tests.gpu.{options.visit}").run(visit, options.model)
    return 1 if visit.failed else 0


if __name__ == "__main__":
    sys.exit(main())
