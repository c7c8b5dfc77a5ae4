"""Services as processes of this host, each in a session of its own."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from include.errors import ToolError
from include.host.ports import listening
from include.host.services import R, ServiceRecord, ServiceSpec, keep_last, last_lines, write

TOKEN_VARIABLE = "HF2TRITON_PROCESS"  # noqa: S105 - a name, not a secret
INHERITED = ("HOME", "LANG", "LC_ALL", "TMPDIR", "TZ")
POLL_S = 0.1
GRACE_S = 45.0
_START_S = 10.0
_KILLED_S = 10.0
_EXEC_S = 2.0
_KERNEL_LOG = Path("/dev/kmsg")


@dataclass(frozen=True)
class ProcessBackend:
    """The backend for processes; ``ask`` is the signal that makes them end gracefully."""

    ask: signal.Signals = signal.SIGTERM

    def start(self, spec: ServiceSpec, record: R, path: Path) -> R:
        """Starts a detached process, so that it leaves no zombie. Raises `ToolError` if it ends at once."""
        write(record, path)
        keep_last(record.log)
        inherited = {name: os.environ[name] for name in INHERITED if name in os.environ}
        devices = {"CUDA_VISIBLE_DEVICES": ",".join(record.gpus)} if record.gpus else {}
        with record.log.open("ab") as log:  # so that it can be cut off at its start while the process writes
            subprocess.run(
                ["setsid", "--fork", *spec.argv],
                env={**inherited, **spec.env, **devices, TOKEN_VARIABLE: record.token},
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                check=True,
            )
        deadline = time.monotonic() + _START_S
        while time.monotonic() < deadline:
            if leader := _leader(record.token):
                started = record.model_copy(update={"pid": leader})
                write(started, path)
                return started
            time.sleep(POLL_S)
        self.stop(record, path, grace_s=0)
        what = f"{spec.argv[0]} ended as it started\n{last_lines(record.log)}"
        raise ToolError(what, where=str(record.log), fix="its log names the cause")

    def keep_across_restarts(self, record: ServiceRecord) -> None:
        """Does nothing: the kernel restarts no process."""

    def find(self, record: R, path: Path) -> R | None:
        """The record with its pid, if its process runs; what a process that has ended has left running is killed."""
        if record.pid == 0 and (leader := _leader(record.token)):
            record = record.model_copy(update={"pid": leader})
            write(record, path)
        if process_of(record) is None:
            self.stop(record, path, grace_s=0)
            return None
        return record

    def is_up(self, record: ServiceRecord, port: int) -> bool:
        """True if the record's process listens on the port."""
        process = process_of(record)
        return process is not None and port in listening(process)

    def why_gone(self, record: ServiceRecord) -> str | None:
        """The way in which the process ended, as far as it can be known: nobody waits for a detached process."""
        if process_of(record):
            return None
        if _out_of_memory(record.pid):
            return "the kernel killed it for want of memory (OOM)"
        return _status_of_zombie(record.pid) or "it ended"

    def why_restarted(self, record: ServiceRecord, since: float) -> str | None:
        """None: the kernel restarts no process."""

    def memory(self, record: ServiceRecord) -> int | None:
        """The bytes of host memory that the process and those that it started hold; shared pages are counted once."""
        return sum(map(_memory, _members(record.token)))

    def collect_log(self, record: ServiceRecord) -> None:
        """Does nothing: the process writes its log itself."""

    def stop(self, record: ServiceRecord, path: Path, grace_s: float) -> None:
        """Stops the process and all processes that it started."""
        members = _members(record.token)
        leader = process_of(record)
        if leader and grace_s:
            with contextlib.suppress(psutil.NoSuchProcess):
                leader.send_signal(self.ask)
            _wait_until_ended([leader], grace_s)
        for process in [*members, *_members(record.token)]:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        _wait_until_ended(members, _KILLED_S)
        path.unlink(missing_ok=True)


def process_of(record: ServiceRecord) -> psutil.Process | None:
    """The record's process, if it still runs."""
    deadline = time.monotonic() + _EXEC_S
    try:
        process = psutil.Process(record.pid)
        # A process has no environment for a moment during exec; some processes never have one.
        while not (environment := process.environ()) and process.status() != psutil.STATUS_ZOMBIE:
            if time.monotonic() > deadline:
                return None
            time.sleep(POLL_S)
    except psutil.Error:
        return None
    return process if environment.get(TOKEN_VARIABLE) == record.token else None


def _out_of_memory(pid: int) -> bool:
    """True if the kernel's log names the process as killed for want of memory; not every user may read that log."""
    with contextlib.suppress(OSError):
        descriptor = os.open(_KERNEL_LOG, os.O_RDONLY | os.O_NONBLOCK)
        with contextlib.closing(os.fdopen(descriptor, "rb", buffering=0)) as log:
            while message := log.read(8192):
                if f"Killed process {pid} (".encode() in message:
                    return True
    return False


def _status_of_zombie(pid: int) -> str | None:
    """The exit code or signal of a process that its parent has not waited for yet."""
    try:
        state, *fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    if state != "Z":
        return None
    code, number = divmod(int(fields[-1]), 256)
    return f"it was killed by {signal.Signals(number & 127).name}" if number else f"exit code {code}"


def _memory(process: psutil.Process) -> int:
    try:
        return int(process.memory_full_info().pss)
    except psutil.Error:  # gone, or another user's
        return 0


def token_of(process: psutil.Process) -> str | None:
    """The token in a process's environment, if it was started as a service."""
    try:
        return process.environ().get(TOKEN_VARIABLE)
    except psutil.Error:  # gone, a zombie, or another user's
        return None


def token_by_arguments(arguments: Sequence[str]) -> str | None:
    """The token of the running service with these arguments in a row: it is found so if its record is damaged."""
    wanted, size = list(arguments), len(arguments)
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            given = process.cmdline()
            if any(given[at : at + size] == wanted for at in range(1, len(given))) and (token := token_of(process)):
                return token
    return None


def _wait_until_ended(processes: Sequence[psutil.Process], limit_s: float) -> None:
    deadline = time.monotonic() + limit_s
    while any(_runs(process) for process in processes) and time.monotonic() < deadline:
        time.sleep(POLL_S / 5)


def _runs(process: psutil.Process) -> bool:
    # psutil.wait_procs takes a zombie for running, and the process that inherited it may take seconds to reap it. But
    # while other threads of it still exist, so do its ports.
    try:
        zombie = process.status() == psutil.STATUS_ZOMBIE and process.num_threads() <= 1
        return process.is_running() and not zombie
    except psutil.NoSuchProcess:
        return False


def _members(token: str) -> list[psutil.Process]:
    """All processes that carry the token, and the others of its session: a process with a title has no environment."""
    processes = list(psutil.process_iter())
    carriers = [process for process in processes if token_of(process) == token]
    sessions = {process.pid for process in carriers if _session(process.pid) == process.pid}
    return [process for process in processes if process in carriers or _session(process.pid) in sessions]


def _leader(token: str) -> int | None:
    """The pid of the process that leads the session of those that carry the token."""
    return next((process.pid for process in _members(token) if _session(process.pid) == process.pid), None)


def _session(pid: int) -> int | None:
    try:
        return os.getsid(pid)
    except ProcessLookupError:
        return None
