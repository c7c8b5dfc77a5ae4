"""The Docker engine: the connection to it, and the meaning of its failures."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from include.errors import HostError, PipelineError, TransientError
from include.host.docker.errors import failure

if TYPE_CHECKING:
    from docker import APIClient


class EngineAway(TransientError):
    """The engine does not answer. A container of this project may still run; the next attempt takes it over."""


def local_engine(timeout_s: int = 60) -> APIClient:
    """A client of the engine that the environment names (``DOCKER_HOST``), else this host's.

    Raises:
        HostError: there is no engine, or this user has no access to it.
        TransientError: the engine does not answer.
    """
    from docker import APIClient
    from docker.errors import DockerException

    url = os.environ.get("DOCKER_HOST") or "unix:///var/run/docker.sock"
    try:
        return APIClient(url, version="auto", timeout=timeout_s)
    except DockerException as error:
        raise unreachable(url) from error


def unreachable(url: str) -> PipelineError:
    """The failure that explains why no engine can be reached at ``url``."""
    socket = Path("/" + url.removeprefix("unix:").lstrip("/"))
    if url.startswith("unix:") and not socket.exists():
        return HostError(
            "there is no Docker engine on this host",
            where=url,
            fix="install and start Docker, set DOCKER_HOST, or set HF2TRITON_RUNNER=process for target openvino",
        )
    if url.startswith("unix:") and not os.access(socket, os.R_OK | os.W_OK, effective_ids=True):
        return HostError(
            "this user may not talk to the Docker engine",
            where=url,
            fix="`sudo usermod -aG docker <user of the worker>`, then log in anew and restart the worker",
        )
    return EngineAway("the Docker engine does not answer", where=url, fix="check `docker info` and the engine's log")


@contextmanager
def engine_errors(where: str) -> Iterator[None]:
    """Turns errors of the engine and of the connection into failures that name a cause."""
    from docker.errors import APIError
    from requests.exceptions import ConnectionError as ConnectionLost
    from requests.exceptions import Timeout

    try:
        yield
    except (ConnectionLost, Timeout) as error:
        raise EngineAway("the Docker engine does not answer", where=where, fix="none: retried") from error
    except APIError as error:
        raise failure(str(error.explanation or error), where=where) from error
