"""Error messages of the Docker engine and of NVIDIA's runtime, as failures that name the fix."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

from include.errors import HostError, PipelineError, ToolError

_TOOLKIT = (
    "install the NVIDIA Container Toolkit, run `sudo nvidia-ctk runtime configure --runtime=docker` and restart Docker"
)


class Cause(NamedTuple):
    """The meaning of a message that ``pattern`` matches anywhere, upper or lower case."""

    pattern: str
    failure: type[PipelineError]
    what: str
    fix: str


# The order matters: an engine wraps one message into another, and the innermost cause is the one to name.
_CAUSES = (
    Cause(
        r"could not select device driver|known GPU vendor|unknown or invalid runtime name: nvidia"
        r"|unresolvable CDI devices",
        HostError,
        "Docker cannot give a container a GPU: there is no NVIDIA runtime",
        _TOOLKIT,
    ),
    Cause(
        r"unsatisfied condition: (cuda|driver)",
        HostError,
        "the NVIDIA driver is too old for the image",
        "update the driver",
    ),
    Cause(
        r"nvidia-container-cli|libnvidia-ml|nvml error|nvidia-container-runtime",
        HostError,
        "the NVIDIA runtime cannot reach the driver",
        "`nvidia-smi` must work on the host itself: install or start the driver, then restart Docker",
    ),
    Cause(
        r"no space left on device",
        HostError,
        "Docker's disk is full",
        "free space below Docker's data root (`docker system df` shows what takes it); the image needs about 40 GB",
    ),
    Cause(
        r"port is already allocated|address already in use",
        HostError,
        "a port that a container is to have is taken",
        "stop what has it (`docker ps` shows the ports of containers), or choose another port",
    ),
    Cause(
        r"bind source path does not exist",
        HostError,
        "the Docker engine does not see a path of this worker",
        "the engine must run on the worker's host, and see the store below the same absolute path",
    ),
)


def failure(message: str, *, where: str) -> PipelineError:
    """The failure that Docker's ``message`` describes; ``where`` is the image or the engine."""
    said = in_one_line(message)
    if found := find(_CAUSES, said):
        return found.failure(found.what, where=f"{where}: {said}", fix=found.fix)
    return ToolError(f"Docker failed: {said}", where=where)


def find(causes: Iterable[Cause], said: str) -> Cause | None:
    """The first cause that matches the message."""
    return next((one for one in causes if re.search(one.pattern, said, re.IGNORECASE)), None)


def in_one_line(message: str) -> str:
    """A message of Docker in one line, cut to a length that fits into an error."""
    return " ".join(message.split())[:400]
