"""The embedded runner: a stage program as a process in the target's own environment."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import IO, ClassVar

from include.artifacts.store import Claim
from include.errors import Ended, HostError, PipelineError, ToolError, from_dict
from include.files import Log
from include.runners.job import Command, FindTarget, StageJob, inherited
from include.settings import PROJECT
from include.stages.common import FAILURE_FILE
from include.stages.progress import TOOL

LAST_LINES = 15
STOP_GRACE_S = 10
_UNSHARE = (("unshare", "--net"), ("unshare", "--user", "--map-current-user", "--keep-caps", "--net"))
_LOOPBACK_UP = (sys.executable, "-I", str(Path(__file__).with_name("loopback.py")))
_OUT_OF_MEMORY = "use a smaller calib_size or calib_seq_len, a smaller model, or a host with more memory"


LeaseGpus = Callable[[StageJob], AbstractContextManager[tuple[str, ...]]]


def no_gpus(job: StageJob) -> AbstractContextManager[tuple[str, ...]]:
    """The lease of a program that needs no GPU."""
    return nullcontext(())


class ProcessRunner:
    """The `Runner` that starts a process of this host; its output goes to ``log`` line by line."""

    resumes: ClassVar[bool] = False

    def __init__(self, find_target: FindTarget, log: Log, lease: LeaseGpus = no_gpus) -> None:
        """``lease`` holds the GPUs that a program uses."""
        self._find_target = find_target
        self._log = log
        self._lease = lease
        self._process: subprocess.Popen[str] | None = None
        self._stopped = False

    def run(self, job: StageJob, claim: Claim) -> None:
        """Makes the claim's artifact; if the store has it already, starts nothing."""
        if claim.hit:
            return
        command = self._find_target(job.target).command(job.module, job.args)
        self._log(f"running {shlex.join(command.argv)}")
        with self._lease(job) as devices:
            visible = {"CUDA_VISIBLE_DEVICES": ",".join(devices)} if devices else {}
            self.execute(replace(command, env={**command.env, **visible}), claim.partial)
        claim.commit()

    def execute(self, command: Command, out: Path) -> None:
        """Runs ``command --out out`` to its end.

        Raises:
            PipelineError: of the class that the program reported, else `ToolError` with its last lines; `Ended` after
                `stop`.
        """
        # setpriv: the kernel ends the program if this process is killed before it can do so.
        argv = [*self._without_network(), "setpriv", "--pdeathsig", "KILL", *command.argv, "--out", str(out)]
        if self._stopped:
            raise Ended
        self._process = subprocess.Popen(
            argv,
            env={**inherited(), **command.env},
            cwd=PROJECT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
        )
        tail: deque[str] = deque(maxlen=LAST_LINES)
        try:
            if self._stopped:  # while it was started
                self._end()
            for line in _lines(self._process.stdout):
                self._log(line)
                tail.append(line)
            code = self._process.wait()
        finally:
            self._end()
        if self._stopped:
            raise Ended
        if code != 0:
            raise failure(command.argv, code, out, list(tail))

    def _without_network(self) -> tuple[str, ...]:
        """The start of a command line that leaves a program loopback alone, where the kernel lets this user do it."""
        for unshare in _UNSHARE:
            start = (*unshare, *_LOOPBACK_UP)
            if subprocess.run([*start, "true"], env=inherited(), capture_output=True).returncode == 0:
                return start
        self._log("the kernel lets this user make no network namespace: the program keeps the network")
        return ()

    def stop(self) -> None:
        """Ends the program; then `run` raises `Ended`."""
        self._stopped = True
        self._end()

    def _end(self) -> None:
        """Ends the program and all processes that it started, if it still runs."""
        process = self._process
        if process is None or process.poll() is not None:
            return
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(STOP_GRACE_S)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def failure(argv: tuple[str, ...], code: int, out: Path | None, tail: list[str]) -> PipelineError:
    """The failure of a stage program that exited with ``code``, negative for a signal."""
    if out and (described := out / FAILURE_FILE).exists():
        return from_dict(json.loads(described.read_text()))
    program = " ".join(argv[:3])
    if code in {-signal.SIGKILL, 128 + signal.SIGKILL}:
        return HostError(f"{program} was killed: out of memory (OOM)", where=_last(tail), fix=_OUT_OF_MEMORY)
    return ToolError(
        f"{program} ended with exit code {code}:\n{_last(tail)}",
        where="the stage's log above",
        fix="the last lines name the cause; the stage can be run alone with the logged command",
    )


def _last(tail: list[str]) -> str:
    return "\n".join(line.removeprefix(TOOL) for line in tail)


def _lines(stream: IO[str] | None) -> Iterator[str]:
    # Universal newlines: a progress bar's "\r" ends a line, too.
    for line in stream or ():
        if line.strip():
            yield line.rstrip()
