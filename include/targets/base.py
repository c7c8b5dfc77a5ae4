"""The interface of a target."""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path
from typing import Protocol

from include.errors import HostError
from include.files import digest_of_tree
from include.host.docker.images import ImageId
from include.host.gpus import Gpu
from include.model.config import ModelConfig
from include.requests.release import ReleaseRequest
from include.runners.job import StageTarget
from include.stages.formats import FORMATS
from include.triton.servers import Ports, ServerPlan

_PINNED = re.compile(r"^([\w.-]+)==([\w.+!-]+)", re.MULTILINE)


def pinned(lock: str) -> dict[str, str]:
    """The versions in a lock by the names of the packages."""
    return dict(_PINNED.findall(lock))


def check_format(request: ReleaseRequest, gpus: list[Gpu]) -> list[Gpu]:
    """The GPUs, if they compute with the request's format; raises `HostError` for an older one."""
    wanted = request.format
    for one in gpus:
        if (one.sm or 0) < wanted.min_sm:
            others = " or ".join(name for name, row in FORMATS.items() if row.min_sm <= (one.sm or 0))
            raise HostError(
                f"{one} is SM {one.sm}; {wanted.title} needs SM {wanted.min_sm} or later",
                where="field quantization",
                fix=f"set quantization to {others}, or use a host with an Ada, Hopper or Blackwell GPU",
            )
    return gpus


class Target(StageTarget, Protocol):
    """The questions of the tasks, besides those of a runner. Methods with a body hold for a target without GPUs."""

    name: str
    build_module: str
    device: str
    applies_chat_template: bool

    def check_host(self, request: ReleaseRequest, shared: Collection[str] = ()) -> None:
        """Raises `HostError` if this host cannot calibrate, build or serve for the target with this runner.

        ``shared`` are ids of GPUs that may be used although they are busy: the live server's.
        """

    def check_fits(self, request: ReleaseRequest, config: ModelConfig, shared: Collection[str] = ()) -> None:
        """Raises `HostError` if a stage needs more memory than is free. On the CPU the stages fit themselves to it."""
        return

    def check_tokenizer(self, request: ReleaseRequest, folder: Path) -> None:
        """Raises `UserError` if the tokenizer in a model's ``folder`` cannot be served as the request asks."""
        return

    def serve_bytes(self, request: ReleaseRequest, config: ModelConfig) -> int | None:
        """The host memory that a server of this request needs at least; None where GPU memory decides."""
        return None

    def environment(self) -> dict[str, str]:
        """Versions of all programs that make the artifacts' bytes."""

    def host_versions(self) -> dict[str, str]:
        """Versions of the host's own parts: they change no artifact, but may change its serving."""

    def packages(self) -> dict[str, str]:
        """Versions of the packages in the target's environment by name, as far as they are known."""
        return {}

    def image_id(self) -> ImageId | None:
        """The names of the image that makes and serves; None for a target without containers."""
        return None

    def hardware(self) -> dict[str, str]:
        """The hardware that an engine is bound to."""

    def gpus(self, request: ReleaseRequest) -> int:
        """The number of GPUs that a stage or a server of this request takes."""
        return 0

    def gpu_ids(self) -> tuple[str, ...]:
        """Device ids of this host's GPUs that stages and servers may use: idle ones first, then the busy ones."""
        return ()

    def wait_for_memory(self, gpus: Collection[str]) -> None:
        """Waits until the GPUs with these ids are idle, as a server that was stopped gives its memory back late.

        Raises `HostError` if they are not in time.
        """
        return

    def calibrate_options(self) -> dict[str, str]:
        """The options of the calibrate program that this target's engine needs; the checkpoint's key has them."""
        return {}

    def build_options(self, request: ReleaseRequest) -> dict[str, str]:
        """The options that change the engine, out of the request."""

    def build_args(self, request: ReleaseRequest) -> tuple[str, ...]:
        """The arguments of the build program, besides the checkpoint."""
        return ()

    def templates(self) -> Path:
        """The pristine model repository."""

    def overlay(self) -> Path | None:
        """The target's own files of models whose templates other targets have, too."""
        return None

    def template_code(self) -> str:
        """The digest of all that a repository is made from."""
        return digest_of_tree(*filter(None, (self.templates(), self.overlay())))

    def repository_values(
        self, request: ReleaseRequest, config: ModelConfig, checkpoint: Path, engine: Path
    ) -> dict[str, dict[str, str]]:
        """Model name -> variable -> value for the templates."""

    def connect(self, repository: Path) -> None:
        """Connects the target's own models with those of the templates in an assembled ``repository``."""
        return

    def local_path(self, path: str) -> Path:
        """The place on this host of a path that a repository names."""
        return Path(path)

    def server(self, repository: Path, ports: Ports) -> ServerPlan:
        """The start of Triton on a repository by this deployment's runner."""
