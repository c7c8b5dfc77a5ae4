"""What the Docker engine and NVIDIA's runtime say when they fail, as failures that name the fix."""

from __future__ import annotations

import re
from dataclasses import dataclass

from include.errors import HostError, PipelineError, ToolError, TransientError, UserError

_TOOLKIT = (
    "install the NVIDIA Container Toolkit, run `sudo nvidia-ctk runtime configure --runtime=docker` and restart Docker"
)
_LOGIN = (
    "on this host, as the user that runs the worker: `docker login nvcr.io` (user name $oauthtoken, password an NGC "
    "API key), then trigger again"
)


@dataclass(frozen=True)
class _Cause:
    pattern: re.Pattern[str]
    failure: type[PipelineError]
    what: str
    fix: str


def _cause(pattern: str, failure: type[PipelineError], what: str, fix: str) -> _Cause:
    return _Cause(re.compile(pattern, re.IGNORECASE | re.DOTALL), failure, what, fix)


# In this order: an engine wraps one message into another, the innermost cause is the one to name.
_CAUSES = (
    _cause(
        r"could not select device driver|known GPU vendor|unknown or invalid runtime name: nvidia"
        r"|unresolvable CDI devices",
        HostError,
        "Docker cannot give a container a GPU: there is no NVIDIA runtime",
        _TOOLKIT,
    ),
    _cause(
        r"unsatisfied condition: (cuda|driver)",
        HostError,
        "the NVIDIA driver is too old for the image",
        "update the driver",
    ),
    _cause(
        r"nvidia-container-cli|libnvidia-ml|nvml error|nvidia-container-runtime",
        HostError,
        "the NVIDIA runtime cannot reach the driver",
        "`nvidia-smi` must work on the host itself: install or start the driver, then restart Docker",
    ),
    _cause(
        r"no space left on device",
        HostError,
        "Docker's disk is full",
        "free space below Docker's data root (`docker system df` shows what takes it); the image needs about 40 GB",
    ),
    _cause(
        r"port is already allocated|address already in use",
        HostError,
        "a port that a container is to have is taken",
        "stop what has it (`docker ps` shows the ports of containers), or choose another port",
    ),
    _cause(
        r"PermissionError|permission denied.*(daemon|docker\.sock)",
        HostError,
        "this user may not talk to the Docker engine",
        "add the worker's user to group docker, or set DOCKER_HOST to an engine of its own",
    ),
    _cause(
        r"manifest unknown|manifest for .* not found",
        UserError,
        "the registry has no such image",
        "correct HF2TRITON_TRTLLM_IMAGE",
    ),
    _cause(
        r"unauthorized|authentication required|access (forbidden|denied)|denied|403 forbidden",
        HostError,
        "the image is not on this host, and the registry refuses to give it",
        _LOGIN,
    ),
    _cause(
        r"dial tcp .*connection refused|no such host|timeout|timed out|connection reset|TLS handshake"
        r"|temporary failure|\bEOF\b|toomanyrequests",
        TransientError,
        "the registry cannot be reached",
        "check the host's network and proxy; or load the image by hand with `docker load`",
    ),
    _cause(
        r"FileNotFoundError|connection refused|cannot connect to the docker daemon|error while fetching server API"
        r"|connection aborted",
        HostError,
        "no Docker engine answers on this host",
        "install and start Docker, or set DOCKER_HOST",
    ),
)


def failure(message: str, *, where: str) -> PipelineError:
    """The failure that ``message`` of Docker describes; ``where`` is the image or the engine."""
    said = " ".join(message.split())[:400]
    for cause in _CAUSES:
        if cause.pattern.search(message):
            return cause.failure(cause.what, where=f"{where}: {said}", fix=cause.fix)
    return ToolError(f"Docker failed: {said}", where=where)
