"""One run of a stage program, as plain data, and the interface of the runners that make its artifact."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol, Self

from include.artifacts.kind import Kind
from include.artifacts.store import Claim
from include.files import digest_of_tree
from include.host.docker.containers import ContainerSpec
from include.settings import PROJECT

STAGES = "include.stages"
"""The package of all stage programs."""


INHERITED = (
    *("PATH", "HOME", "USER", "LOGNAME", "LANG", "LC_ALL", "LC_CTYPE", "TMPDIR", "TZ"),
    *("LD_LIBRARY_PATH", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "CUDA_HOME", "CUDA_VISIBLE_DEVICES"),
)
"""The variables of the worker that stage programs get. The others may hold secrets: tokens, the database's URL."""


def inherited() -> dict[str, str]:
    """The worker's environment as far as stage programs get it."""
    return {name: os.environ[name] for name in INHERITED if name in os.environ}


@dataclass(frozen=True)
class Command:
    """A command that can be started: the argument list and the environment variables to add."""

    argv: tuple[str, ...]
    env: Mapping[str, str]

    @classmethod
    def python(cls, interpreter: str, module: str, args: tuple[str, ...], **env: str) -> Self:
        """The command ``python -m module`` with the project's code; the Hub is deliberately out of reach."""
        common = {
            "PYTHONPATH": str(PROJECT),
            "PYTHONUNBUFFERED": "1",
            "HF_HUB_OFFLINE": "1",
            "TOKENIZERS_PARALLELISM": "false",
            "TQDM_MININTERVAL": "5",
            # Threads that spin while they wait take the cores from those that they wait for, if others use them, too.
            "OMP_WAIT_POLICY": "passive",
        }
        return cls((interpreter, "-m", module, *args), {**common, **env})


@dataclass(frozen=True)
class StageJob:
    """One run of a stage program, as any runner can start it.

    ``inputs`` is everything that can change the bytes of the artifact, ``reads`` the paths that the
    program must be able to read, ``gpus`` the number of GPUs that it uses.
    """

    target: str
    kind: Kind
    module: str
    args: tuple[str, ...]
    reads: tuple[Path, ...]
    inputs: Mapping[str, Any]
    gpus: int = 0


class StageTarget(Protocol):
    """The part of a target that runners use."""

    def command(self, module: str, args: tuple[str, ...]) -> Command:
        """The command that starts a stage program in the target's environment."""

    def stage_image(self) -> ContainerSpec:
        """The container of the target's stage programs: its image, and the settings that all of them share."""

    def gpu_ids(self) -> tuple[str, ...]:
        """The device ids of this host's GPUs that stages and servers may use: idle ones first, then busy ones."""


FindTarget = Callable[[str], StageTarget]


class Runner(Protocol):
    """The runner of a stage program for one attempt of a task."""

    resumes: ClassVar[bool]
    """True if its programs outlive the worker, so that the next attempt continues with their partial directory."""

    def run(self, job: StageJob, claim: Claim) -> None:
        """Makes the claim's artifact; if the store has it already, starts nothing.

        Raises:
            PipelineError: the program failed, was stopped, or cannot be started on this host.
        """

    def stop(self) -> None:
        """Ends the program and all processes that it started; then `run` raises `Ended`."""


def stage_code(module: str) -> str:
    """The digest of the code that ``module`` runs."""
    return digest_of_tree(*travelling_code(module))


def travelling_code(module: str = STAGES) -> tuple[Path, ...]:
    """The files and folders that the program ``module`` needs: its package, and the code that all programs share.

    Without a module, they are those of all programs.
    """
    include, package = PROJECT / "include", PROJECT / Path(*module.split("."))
    stages = include / "stages"
    shared = [path for path in (*sorted(stages.glob("*.py")), stages / "formats") if path.parent != package]
    ground = (include / name for name in ("reading.py", "errors.py", "__init__.py"))
    return (package, *shared, include / "model", *ground)
