"""What the tasks ask of a target: its interface."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Protocol

from include.model.config import ModelConfig
from include.requests.release import ReleaseRequest
from include.runners.job import StageTarget
from include.triton.servers import Ports, ServerPlan


class Target(StageTarget, Protocol):
    """What the tasks ask of a target, besides what a runner asks of it."""

    name: str
    build_module: str
    device: str
    applies_chat_template: bool

    def check_host(self, request: ReleaseRequest, shared: Collection[str] = ()) -> None:
        """Raises `HostError` if this host cannot calibrate, build or serve for the target with this runner.

        ``shared`` are ids of GPUs that may be used although they are busy: the live server's.
        """

    def check_fits(self, request: ReleaseRequest, config: ModelConfig, shared: Collection[str] = ()) -> None:
        """Raises `UserError` or `HostError` if this model, asked for in this way, does not fit the device."""

    def environment(self) -> dict[str, str]:
        """Versions of all that makes the artifacts' bytes."""

    def host_versions(self) -> dict[str, str]:
        """Versions of what the host brings along: they change no artifact, but may change how it serves."""

    def hardware(self) -> dict[str, str]:
        """What an engine is bound to."""

    def gpus(self, request: ReleaseRequest) -> int:
        """How many GPUs a stage or a server of this request takes."""

    def wait_for_memory(self, gpus: Collection[str]) -> None:
        """Waits until the GPUs with these ids are idle, as a server that was stopped gives its memory back late.

        Raises `HostError` if they are not in time.
        """

    def build_options(self, request: ReleaseRequest) -> dict[str, str]:
        """What of the request changes the engine."""

    def build_args(self, request: ReleaseRequest) -> tuple[str, ...]:
        """The same as arguments of the build program."""

    def templates(self) -> Path:
        """The pristine model repository."""

    def repository_values(
        self, request: ReleaseRequest, config: ModelConfig, checkpoint: Path, engine: Path
    ) -> dict[str, dict[str, str]]:
        """Model name -> variable -> value for the templates."""

    def local_path(self, path: str) -> Path:
        """Where a path that stands in a repository is on this host."""

    def server(self, repository: Path, ports: Ports) -> ServerPlan:
        """How Triton is started on a repository, by this deployment's runner."""
