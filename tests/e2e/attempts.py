"""Attempts of a task, each in a process of its own that can be killed: the operator as it is, in a context like
Airflow's. The processes are forks, as Airflow's own are: importing Airflow anew takes seconds.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

from hf2triton.operators.docker_stage import DockerStageOperator
from include.context import Context as TaskContext
from include.errors import CLASSES, PipelineError, from_dict
from include.host.docker.containers import ContainerSpec
from include.runners import container as docker_runner
from include.runners.job import Command, StageJob, StageTarget
from include.settings import settings
from tests.support.engine import BASE

DAG_ID = "adhoc_airflow"  # what an operator outside of a DAG says
TASK = "survivor"
KIND = "engines"
TIMEOUT_S = 60

_fork = multiprocessing.get_context("fork")


@dataclass(frozen=True)
class Attempt:
    """What an attempt is to do. ``script`` is its stage program: a shell script, ``$2`` is its output directory.

    ``die_at`` is a log line at which the worker kills itself.
    """

    script: str
    artifacts: Path
    reads: Path
    run: str = "run-1"
    number: int = 1
    key: str = "one"
    gpus: int = 0
    gpu_driver: str = ""
    image: str = BASE
    engine: str = ""
    engine_wait_s: float = 60
    die_at: str = ""
    silence_s: float = TIMEOUT_S

    def target(self) -> StageTarget:
        """The one that the job finds, whatever name it asks for."""
        return ShellTarget(self)

    def job(self, context: TaskContext) -> StageJob:
        """What the task's module says."""
        return StageJob(
            target="shell",
            kind=KIND,
            module="stage",
            args=(),
            reads=(self.reads,),
            inputs={"key": self.key},
            gpus=self.gpus,
        )


class Worker:
    """A process that does one attempt."""

    def __init__(self, attempt: Attempt) -> None:
        self._lines, theirs = _fork.Pipe(duplex=False)
        self.log: list[str] = []
        self._outcome: dict[str, Any] | None = None
        self._silence_s = attempt.silence_s
        self.process = _fork.Process(target=_work, args=(attempt, theirs), daemon=True)
        self.process.start()
        theirs.close()

    def wait_for(self, text: str) -> str:
        """The first log line from now on that starts with ``text``."""
        for line in self._read():
            if line.startswith(text):
                return line
        raise AssertionError(f"no {text!r} in the log:\n" + "\n".join(self.log))

    def kill(self) -> None:
        """As the kernel, or a host that dies, does it."""
        self.process.kill()
        self.process.join()

    def cancel(self) -> None:
        """As Airflow does when its user ends the task: SIGTERM, which calls `on_kill`."""
        self.process.terminate()

    def result(self) -> dict[str, Any]:
        """What the operator returned; raises what it raised."""
        for _ in self._read():
            pass
        self.process.join(TIMEOUT_S)
        assert self._outcome is not None, "the worker died:\n" + "\n".join(self.log)
        if "class" in self._outcome:
            raise from_dict(self._outcome)
        return self._outcome

    def _read(self) -> Iterator[str]:
        while self._lines.poll(self._silence_s):
            try:
                message = self._lines.recv()
            except EOFError:
                return
            if isinstance(message, dict):
                self._outcome = message
            else:
                self.log.append(message)
                yield message
        raise AssertionError(f"no line within {self._silence_s} s:\n" + "\n".join(self.log))


class ShellTarget:
    """A target whose stage programs are shell scripts."""

    def __init__(self, attempt: Attempt) -> None:
        self._attempt = attempt

    def command(self, module: str, args: tuple[str, ...]) -> Command:
        return Command(("sh", "-c", self._attempt.script, module, *args), {})

    def stage_image(self) -> ContainerSpec:
        return ContainerSpec(image=self._attempt.image)

    def gpu_ids(self) -> tuple[str, ...]:
        return ("0", "1")


class NoStateStore:
    """Airflow's task state store, which outlives a cleared task: what it holds is nothing to go by."""

    def get(self, key: str) -> Any:
        raise AssertionError(f"the operator asks for {key}")

    set = get


class PipeLog:
    """A logger whose lines go to the test."""

    def __init__(self, lines: Connection, die_at: str) -> None:
        self._lines = lines
        self._die_at = die_at

    def info(self, message: str, *args: Any, **fields: Any) -> None:
        line = message % args if args else message
        self._lines.send(line)
        if self._die_at and self._die_at in line:
            os.kill(os.getpid(), signal.SIGKILL)

    debug = warning = error = info


def _work(attempt: Attempt, lines: Connection) -> None:
    log = PipeLog(lines, attempt.die_at)
    with _deployment(attempt), patch.object(DockerStageOperator, "log", log):
        options = {"docker_url": attempt.engine} if attempt.engine else {}
        operator = DockerStageOperator(task_id=TASK, job=attempt.job, **options)
        # As Airflow's task runner does.
        signal.signal(signal.SIGTERM, lambda *_: operator.on_kill())
        context: Any = {
            "run_id": attempt.run,
            "params": {},
            "ti": SimpleNamespace(
                dag_id=DAG_ID,
                map_index=-1,
                try_number=attempt.number,
                stats_tags={},
                xcom_push=lambda key, value: None,  # the run's note and progress
            ),
            "task_state_store": NoStateStore(),
        }
        try:
            lines.send(operator.execute(context))
        except PipelineError as error:
            known = next(kind for kind in type(error).__mro__ if kind in CLASSES)
            lines.send({**error.to_dict(), "class": known.__name__})


@contextmanager
def _deployment(attempt: Attempt) -> Iterator[None]:
    """The attempt's target and settings, where the operator looks for them."""
    variables = {
        "HF2TRITON_ARTIFACTS": str(attempt.artifacts),
        "HF2TRITON_GPU_LEASE_DIR": str(attempt.artifacts / "leases"),
    }
    with ExitStack() as patches:
        patches.enter_context(patch.dict(os.environ, variables))
        patches.enter_context(patch("include.context.get_target", lambda *_: attempt.target()))
        patches.enter_context(patch.object(docker_runner, "ENGINE_WAIT_S", attempt.engine_wait_s))
        if attempt.gpu_driver:
            patches.enter_context(_driver(attempt.gpu_driver))
        settings.cache_clear()
        yield


def _driver(name: str) -> Any:
    """Device requests ask for this driver."""
    import docker.types

    request = docker.types.DeviceRequest
    return patch.object(docker.types, "DeviceRequest", lambda **fields: request(driver=name, **fields))
