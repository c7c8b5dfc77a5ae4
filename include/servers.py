"""Triton as a detached process: it outlives the task that launched it and is found again by its record."""

from __future__ import annotations

import os
import time
from pathlib import Path

import httpx
from pydantic import BaseModel, ConfigDict

from include import processes
from include.errors import ToolError
from include.processes import ProcessRecord, check_port_free, free_ports, listening, process_of
from include.store import Log

__all__ = [
    "Ports",
    "ServerCommand",
    "ServerRecord",
    "check_port_free",
    "find",
    "free_ports",
    "is_ready",
    "launch",
    "stop",
]

INHERITED = ("HOME", "LANG", "LC_ALL", "TMPDIR", "TZ")
_ERROR_LINES = 25
_HARMLESS = ("NVML", "DCGM", "CUDA driver version")  # said by every server on a host without a GPU
_EVERYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - addresses to compare with, not to bind to
_MEMORY = Path("/dev/shm")  # noqa: S108 - where the kernel has shared memory


class Ports(BaseModel):
    """A server's ports."""

    model_config = ConfigDict(frozen=True)
    http: int
    grpc: int
    metrics: int


class ServerCommand(BaseModel):
    """How a server is started. ``env`` is all that it gets besides the locale and home of its launcher.

    ``shared_memory`` is what the names of its segments in /dev/shm start with: a killed server leaves them.
    """

    model_config = ConfigDict(frozen=True)
    argv: tuple[str, ...]
    env: dict[str, str]
    repository: Path
    address: str = "127.0.0.1"
    shared_memory: str = ""


class ServerRecord(ProcessRecord):
    """A server that was launched."""

    command: ServerCommand
    ports: Ports

    @property
    def repository(self) -> Path:
        """The model repository that it serves."""
        return self.command.repository

    @property
    def url(self) -> str:
        """Where its HTTP endpoint answers on this host."""
        host = _EVERYWHERE.get(self.command.address, self.command.address)
        return f"http://[{host}]:{self.ports.http}" if ":" in host else f"http://{host}:{self.ports.http}"


def launch(
    command: ServerCommand, record_path: Path, *, ports: Ports, timeout_s: float, log: Log = print
) -> ServerRecord:
    """Starts a server and waits until it is ready. Its output goes beside the record, as ``.log``.

    Raises:
        HostError: a port is taken; the message names it and who has it.
        ToolError: it died or was not ready in time, with its own last error lines; nothing of it is left.
    """
    for port in (ports.http, ports.grpc, ports.metrics):
        check_port_free(port)
    record = ServerRecord(command=command, ports=ports, log=record_path.with_suffix(".log"))
    inherited = {name: os.environ[name] for name in INHERITED if name in os.environ}
    try:
        record = processes.spawn(record, record_path, command.argv, {**inherited, **command.env})
        log(f"started {Path(command.argv[0]).name}, pid {record.pid}, log {record.log}")
        _wait_until_ready(record, timeout_s)
    except BaseException:
        stop(record, record_path, grace_s=0)
        raise
    return record


def find(record_path: Path) -> ServerRecord | None:
    """The server of that record if that very process runs; a record whose server is gone is removed."""
    return processes.find(record_path, ServerRecord)


def is_ready(record: ServerRecord) -> bool:
    """Whether that very process runs, listens on its port, and says that all its models are ready."""
    process = process_of(record)
    if process is None or record.ports.http not in listening(process):
        return False
    try:
        return httpx.get(f"{record.url}/v2/health/ready", timeout=5, trust_env=False).status_code == httpx.codes.OK
    except httpx.TransportError:
        return False


def stop(record: ServerRecord, record_path: Path, *, grace_s: float = processes.GRACE_S) -> None:
    """Ends a server and its model processes: asked to, then, after ``grace_s``, killed. Its ports are free after."""
    processes.stop(record, record_path, grace_s=grace_s)
    if prefix := record.command.shared_memory:
        for segment in _MEMORY.glob(f"{prefix}*"):
            segment.unlink(missing_ok=True)


def _wait_until_ready(record: ServerRecord, timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    while not is_ready(record):
        if process_of(record) is None:
            raise _death(record)
        if time.monotonic() > deadline:
            raise ToolError(
                f"the server was not ready within {timeout_s:g} s\n{_last_errors(record.log)}", where=str(record.log)
            )
        time.sleep(processes.POLL_S)


def _death(record: ServerRecord) -> ToolError:
    return ToolError(f"the server died as it started\n{_last_errors(record.log)}", where=str(record.log))


def _last_errors(log: Path) -> str:
    """What a server said last about its failure: lines of level E and those about errors, else its last lines."""
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    lines = [line for line in lines if not any(word in line for word in _HARMLESS)]
    errors = [line for line in lines if line.startswith("E") or "error" in line.lower() or "Traceback" in line]
    return "\n".join(line[:500] for line in (errors or lines)[-_ERROR_LINES:])
