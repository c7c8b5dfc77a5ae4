"""One run of a stage program, as plain data: a target describes it, a runner starts it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from include.artifacts.kind import Kind
from include.files import digest_of_tree
from include.settings import PROJECT

STAGES = "include.stages"
"""The package of all stage programs."""


@dataclass(frozen=True)
class Command:
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
    kind: Kind
    module: str
    args: tuple[str, ...]
    reads: tuple[Path, ...]
    inputs: Mapping[str, Any]
    gpus: int = 0


def stage_code(module: str) -> str:
    """Digest of the code that ``module`` runs."""
    return digest_of_tree(*travelling_code(module))


def travelling_code(module: str = STAGES) -> tuple[Path, ...]:
    """Files and folders that travel with the program ``module``: its package, and what all programs share.

    Without a module, those of every program.
    """
    include, package = PROJECT / "include", PROJECT / Path(*module.split("."))
    shared = [path for path in sorted((include / "stages").glob("*.py")) if path.parent != package]
    return (package, *shared, include / "model", include / "errors.py", include / "__init__.py")
