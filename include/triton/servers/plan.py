"""What a server is started from, and what is known of one that was started. Plain data, kept as JSON."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from include.host.processes import ProcessRecord

EVERYWHERE = "0.0.0.0"  # noqa: S104 - inside a container: what is published decides who can reach it
_LOCAL = {EVERYWHERE: "127.0.0.1", "::": "::1"}


class Ports(BaseModel):
    """A server's ports."""

    model_config = ConfigDict(frozen=True)
    http: int
    grpc: int
    metrics: int

    @property
    def all(self) -> tuple[int, int, int]:
        """The three numbers."""
        return self.http, self.grpc, self.metrics


class ContainerPlan(BaseModel):
    """The container that a server runs in. Paths are the same inside as outside.

    It sees ``reads`` and can write ``caches``. ``gpus`` is how many it needs; which ones is decided at each start.
    With network ``bridge`` its ports are published on the plan's address, with ``host`` the server binds it itself.
    ``build`` is the command that makes the image where no registry has it.
    """

    model_config = ConfigDict(frozen=True)
    image: str
    build: str = ""
    gpus: int = 0
    reads: tuple[Path, ...] = ()
    caches: tuple[Path, ...] = ()
    network: Literal["bridge", "host"] = "bridge"
    shm_bytes: int | None = None
    ulimits: dict[str, int] = {}


class ServerPlan(BaseModel):
    """All that is needed to start a server, at any time, on this host.

    Without ``container`` it is a process, whose ``env`` is all that it gets besides the locale and home of its
    launcher, and ``shared_memory`` is what the names of its segments in /dev/shm start with: a killed server leaves
    them there.
    """

    model_config = ConfigDict(frozen=True)
    target: str
    repository: Path
    argv: tuple[str, ...]
    env: dict[str, str]
    ports: Ports
    address: str = "127.0.0.1"
    shared_memory: str = ""
    container: ContainerPlan | None = None

    @property
    def gpus(self) -> int:
        """How many GPUs have to be leased for it."""
        return self.container.gpus if self.container else 0


class ServerRecord(ProcessRecord):
    """A server that was launched: a process by its ``pid``, or a container, on the GPUs with the ids ``gpus``.

    Both carry the record's ``token`` from before they start, so that they are found even if their launcher was
    killed before it could write down more.
    """

    plan: ServerPlan
    container_id: str = ""
    gpus: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"container {self.container_id[:12]}" if self.plan.container else f"pid {self.pid}"

    @property
    def ports(self) -> Ports:
        """Where it listens."""
        return self.plan.ports

    @property
    def repository(self) -> Path:
        """The model repository that it serves."""
        return self.plan.repository

    @property
    def url(self) -> str:
        """Where its HTTP endpoint answers on this host."""
        host = _LOCAL.get(self.plan.address, self.plan.address)
        return f"http://[{host}]:{self.ports.http}" if ":" in host else f"http://{host}:{self.ports.http}"
