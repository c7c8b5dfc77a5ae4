"""Targets: where a checkpoint becomes an engine and is served. What a target needs, renders and claims
stands in its own module; everything else knows only this interface.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from include.artifacts.store import digest_of_tree
from include.errors import HostError
from include.host.docker.registry import FindLogin, no_login
from include.model.config import ModelConfig
from include.requests.release import ReleaseRequest
from include.settings import PROJECT, Settings
from include.triton.servers import Ports, ServerPlan


@dataclass(frozen=True)
class StageCommand:
    """A process that can be started: argument list and the environment variables to add."""

    argv: tuple[str, ...]
    env: Mapping[str, str]


@dataclass(frozen=True)
class StageImage:
    """The image that a target's stage programs run in, and what their containers need.

    ``build`` is the command that makes the image if no registry has it; ``caches`` are directories that the
    programs may write to and that outlive a container.
    """

    name: str
    build: str = ""
    caches: tuple[Path, ...] = ()
    shm_bytes: int | None = None
    ulimits: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class StageJob:
    """One run of a stage program, as any runner can start it.

    ``inputs`` is everything that can change the bytes of the artifact, ``reads`` the paths that the
    program must be able to see, ``gpus`` how many it uses.
    """

    target: str
    kind: str
    module: str
    args: tuple[str, ...]
    reads: tuple[Path, ...]
    inputs: Mapping[str, Any]
    gpus: int = 0


class Target(Protocol):
    """What the tasks ask of a target."""

    name: str
    build_module: str
    device: str
    applies_chat_template: bool

    def check_host(self, request: ReleaseRequest) -> None:
        """Raises `HostError` if this host cannot calibrate, build or serve for the target with this runner."""

    def check_fits(self, request: ReleaseRequest, config: ModelConfig) -> None:
        """Raises `UserError` or `HostError` if this model, asked for in this way, does not fit the device."""

    def environment(self) -> dict[str, str]:
        """Versions of all that makes the artifacts' bytes."""

    def host_versions(self) -> dict[str, str]:
        """Versions of what the host brings along: they change no artifact, but may change how it serves."""

    def hardware(self) -> dict[str, str]:
        """What an engine is bound to."""

    def command(self, module: str, args: tuple[str, ...]) -> StageCommand:
        """How a stage program starts in the target's environment."""

    def stage_image(self) -> StageImage:
        """Where stage programs run if the deployment's runner is docker."""

    def gpus(self, request: ReleaseRequest) -> int:
        """How many GPUs a stage or a server of this request takes."""

    def gpu_ids(self) -> tuple[str, ...]:
        """Device ids of this host's GPUs that stages and servers may use: idle ones first, then the busy ones."""

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


def stage_code(module: str) -> str:
    """Digest of the code that ``module`` runs: its package and what it shares with the other programs."""
    stages = PROJECT / "include" / "stages"
    package = PROJECT / Path(*module.split("."))
    return digest_of_tree(package, *sorted(stages.glob("*.py")), PROJECT / "include" / "errors.py")


def get_target(name: str, settings: Settings, find_login: FindLogin = no_login) -> Target:
    """The target of that name; its image is pulled with the login that ``find_login`` finds.

    Raises:
        HostError: this deployment does not have it.
    """
    if name == "openvino":
        from include.targets.openvino import OpenVinoTarget

        return OpenVinoTarget(settings, find_login)
    if name == "tensorrt_llm":
        from include.targets.tensorrt_llm import TensorRTLLMTarget

        return TensorRTLLMTarget(settings, find_login=find_login)
    raise HostError(
        f"target {name!r} is not available on this host",
        where="field target",
        fix="choose target openvino",
    )
