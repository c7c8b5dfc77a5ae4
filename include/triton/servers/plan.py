"""The data that a server is started from, and the record of one that was started, kept as JSON."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import model_validator

from include.frozen import Frozen
from include.host.docker.containers import ContainerSpec
from include.host.ports import http_url
from include.host.services import ServiceRecord, ServiceSpec

EVERYWHERE = "0.0.0.0"  # noqa: S104 - inside a container: what is published decides who can reach it


class Ports(Frozen):
    """A server's ports."""

    http: int
    grpc: int
    metrics: int

    @property
    def all(self) -> tuple[int, int, int]:
        """The three numbers."""
        return self.http, self.grpc, self.metrics


class ServerPlan(ServiceSpec):
    """All that is needed to start a server, at any time, on this host, on ``gpus`` GPUs that are chosen at each start.

    With a container's network ``bridge`` its ports are published on ``address``, with ``host`` the server binds it
    itself. ``shared_memory`` is what the names of a process's segments in /dev/shm start with: a killed server leaves
    them there.
    """

    target: str
    repository: Path
    ports: Ports
    address: str = "127.0.0.1"
    shared_memory: str = ""
    gpus: int = 0

    @model_validator(mode="before")
    @classmethod
    def _migrate(cls, data: Any) -> Any:  # noqa: ANN401 - whatever is given
        """Earlier versions kept the number of GPUs with the container."""
        box = data.get("container") if isinstance(data, dict) else None
        if not isinstance(box, dict) or not isinstance(box.get("gpus"), int):
            return data
        rest = {name: value for name, value in box.items() if name != "gpus"}
        return {**data, "gpus": box["gpus"], "container": {"network": "bridge", **rest}}

    def in_container(self, box: ContainerSpec) -> ContainerSpec:
        """``box`` with the server in it, and its ports published."""
        ports = self.ports.all if box.network == "bridge" else ()
        return super().in_container(box).model_copy(update={"ports": ports, "address": self.address})


class ServerRecord(ServiceRecord):
    """A server that was launched."""

    plan: ServerPlan

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
        return http_url(self.plan.address, self.ports.http)
