"""Detached processes: they outlive whoever started them and are found again by their record.

The record, a JSON file, is written before the process starts and holds a token that the process and its children
carry in their environment. So a starter that is killed at any moment leaves nothing that `find` could not find.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import psutil
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from include.errors import HostError, ToolError
from include.files import write_atomic

TOKEN_VARIABLE = "HF2TRITON_PROCESS"  # noqa: S105 - a name, not a secret

_EXEC_S = 2.0
POLL_S = 0.1
_START_S = 10.0
_KILLED_S = 10.0
_LAST_LINES = 15
GRACE_S = 45.0


class ProcessRecord(BaseModel):
    """A process that was started; ``pid`` is 0 for the moment between the record's writing and the start.

    The process is known by pid and token: a pid alone may be another process by now, and a start time moves
    with the host's clock.
    """

    model_config = ConfigDict(frozen=True)
    log: Path
    token: str = Field(default_factory=lambda: secrets.token_hex(16))
    pid: int = 0


R = TypeVar("R", bound=ProcessRecord)


def spawn(record: R, record_path: Path, argv: Sequence[str], env: Mapping[str, str]) -> R:
    """Starts a process in a session of its own, as nobody's child: it can become no zombie of ours.

    Its output goes to ``record.log``; the log before it is kept as ``.1``.

    Raises:
        ToolError: it ended at once, and left no record.
    """
    write_atomic(record_path, record.model_dump_json(indent=1))
    keep_last(record.log)
    with record.log.open("wb") as log:
        subprocess.run(
            ["setsid", "--fork", *argv],
            env={**env, TOKEN_VARIABLE: record.token},
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
            write_atomic(record_path, started.model_dump_json(indent=1))
            return started
        time.sleep(POLL_S)
    stop(record, record_path, grace_s=0)
    said = "\n".join(record.log.read_text(errors="replace").splitlines()[-_LAST_LINES:])
    raise ToolError(f"{argv[0]} ended as it started\n{said}", where=str(record.log), fix="its log names the cause")


def keep_last(log: Path) -> None:
    """Makes room for a new log; the one that is there is kept as ``.1``."""
    if log.exists():
        log.replace(log.with_suffix(f"{log.suffix}.1"))


def read(record_path: Path, kind: type[R]) -> R | None:
    """What a record says, whether it is still true or not; one that cannot be read is removed."""
    try:
        return kind.model_validate_json(record_path.read_text())
    except FileNotFoundError:
        return None
    except ValidationError:
        record_path.unlink(missing_ok=True)
        return None


def find(record_path: Path, kind: type[R]) -> R | None:
    """The record of a process if that very process runs; a record whose process is gone is removed."""
    record = read(record_path, kind)
    if record is None:
        return None
    if record.pid == 0 and (leader := _leader(record.token)):
        record = record.model_copy(update={"pid": leader})
        write_atomic(record_path, record.model_dump_json(indent=1))
    if process_of(record) is None:
        record_path.unlink(missing_ok=True)
        return None
    return record


def process_of(record: ProcessRecord) -> psutil.Process | None:
    """The process, if it still runs."""
    try:
        process = psutil.Process(record.pid)
        deadline = time.monotonic() + _EXEC_S
        while not (environment := process.environ()) and process.status() != psutil.STATUS_ZOMBIE:
            if time.monotonic() > deadline:  # it has none at all, as a program that gave itself another title
                return None
            time.sleep(POLL_S)  # it has none for the moment in which it becomes another program
    except psutil.Error:
        return None
    return process if environment.get(TOKEN_VARIABLE) == record.token else None


def stop(
    record: ProcessRecord, record_path: Path, *, ask: signal.Signals = signal.SIGTERM, grace_s: float = GRACE_S
) -> None:
    """Ends a process and all that it started: asked by a signal, then, after ``grace_s``, killed.

    Removes the record.
    """
    members = _members(record.token)
    leader = process_of(record)
    if leader and grace_s:
        with contextlib.suppress(psutil.NoSuchProcess):
            leader.send_signal(ask)
        _wait_until_ended([leader], grace_s)
    for process in [*members, *_members(record.token)]:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    _wait_until_ended(members, _KILLED_S)
    record_path.unlink(missing_ok=True)


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on now, all different."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


def check_port_free(port: int) -> None:
    """Raises `HostError`, naming the process if it can be known, if a port of this host is taken."""
    with socket.socket() as probe:
        # As servers do: a port whose last connections are only timing out is free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", port))
        except OSError as error:
            raise HostError(
                f"port {port} is taken by {_holder(port)}", fix="stop it, or choose another port"
            ) from error


def listening(process: psutil.Process) -> set[int]:
    """TCP ports that a process listens on; empty if it is gone or another user's."""
    try:
        connections = process.net_connections(kind="tcp")
    except psutil.Error:
        return set()
    return {c.laddr.port for c in connections if c.status == psutil.CONN_LISTEN}


def _wait_until_ended(processes: Sequence[psutil.Process], limit_s: float) -> None:
    deadline = time.monotonic() + limit_s
    while any(_runs(process) for process in processes) and time.monotonic() < deadline:
        time.sleep(POLL_S / 5)


def _runs(process: psutil.Process) -> bool:
    # psutil.wait_procs takes a zombie for running, and whoever inherited it may take seconds to reap it. But while
    # other threads of it are still there, so are its ports.
    try:
        zombie = process.status() == psutil.STATUS_ZOMBIE and process.num_threads() <= 1
        return process.is_running() and not zombie
    except psutil.NoSuchProcess:
        return False


def _members(token: str) -> list[psutil.Process]:
    """All processes that carry the token."""
    return [process for process in psutil.process_iter() if token_of(process) == token]


def _leader(token: str) -> int | None:
    """The pid of the process that leads the session of those that carry the token."""
    return next((process.pid for process in _members(token) if _leads(process.pid)), None)


def _leads(pid: int) -> bool:
    try:
        return os.getsid(pid) == pid
    except ProcessLookupError:
        return False


def token_of(process: psutil.Process) -> str | None:
    """The token that a process carries, if it was started here."""
    try:
        return process.environ().get(TOKEN_VARIABLE)
    except psutil.Error:  # gone, a zombie, or another user's
        return None


def _holder(port: int) -> str:
    for process in psutil.process_iter(["pid", "name"]):
        if port in listening(process):
            if process.info["name"] == "docker-proxy":
                return "a container (`docker ps` names it)"
            return f"{process.info['name']}, pid {process.info['pid']}"
    return "a process of another user"
