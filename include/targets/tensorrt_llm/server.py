"""How Triton starts in the image: itself as the container's process, or under mpirun with one rank a GPU.

Contract: NVIDIA/TensorRT-LLM 1.2.1, ``triton_backend/scripts/launch_triton_server.py``. That script itself ends
at once and leaves the server behind, which as a container's process would end the container.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from include.host.services.process import GRACE_S
from include.targets.tensorrt_llm.image import ImageFacts

if TYPE_CHECKING:
    from include.triton.servers import Ports

ENGINE_MODEL = "tensorrt_llm"
SHM_BYTES = 2 << 30
_MPIRUN = (
    "--allow-run-as-root",
    # Else Open MPI puts each rank with all its threads, and the tokenizers' processes, on one core.
    *("--bind-to", "none"),
    # Else it kills ranks a second after it has asked them to end.
    *("--mca", "odls_base_sigkill_timeout", str(round(GRACE_S))),
)
ULIMITS: Mapping[str, int] = MappingProxyType({"memlock": -1, "stack": 67_108_864})


def server_argv(image: ImageFacts, repository: Path, ports: Ports, *, ranks: int) -> tuple[str, ...]:
    """The server's argument list: tritonserver for one rank, else mpirun with as many."""
    if ranks == 1:
        return _rank(image, repository, ports, 0)
    argv = [image.mpirun(), *_MPIRUN]
    for rank in range(ranks):
        separator = [":"] if rank else []
        argv += [*separator, "-n", "1", *_rank(image, repository, ports, rank)]
    return tuple(argv)


def _rank(image: ImageFacts, repository: Path, ports: Ports, rank: int) -> tuple[str, ...]:
    """One rank. All have the same ports: those after the first only serve it, and end before they would listen."""
    only_engine = ("--model-control-mode=explicit", f"--load-model={ENGINE_MODEL}") if rank else ()
    return (
        image.tools.tritonserver,
        f"--model-repository={repository}",
        f"--http-port={ports.http}",
        f"--grpc-port={ports.grpc}",
        f"--metrics-port={ports.metrics}",
        *only_engine,
        "--disable-auto-complete-config",
        f"--backend-config=python,shm-region-prefix-name=prefix{rank}_",
    )
