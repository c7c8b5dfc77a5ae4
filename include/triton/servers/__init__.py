"""Triton servers: detached, so that they outlive the task that launched them, and found again by their record.

A server is a process of this host or a container of its Docker engine; its plan says which, and nobody else needs to
know. A launcher that is killed at any moment leaves nothing that `find` and `stop` could not find.
"""

from __future__ import annotations

import time
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Protocol

import httpx

from include.errors import ToolError
from include.files import Log
from include.host import processes
from include.host.processes import check_port_free, free_ports
from include.triton.servers.container import ContainerServers, gpus_in_use
from include.triton.servers.plan import ContainerPlan, Ports, ServerPlan, ServerRecord
from include.triton.servers.process import INHERITED, ProcessServers
from include.triton.servers.records import live_record, release_record

__all__ = [
    "INHERITED",
    "ContainerPlan",
    "Ports",
    "ServerPlan",
    "ServerRecord",
    "check_port_free",
    "find",
    "free_ports",
    "gpus_in_use",
    "is_ready",
    "launch",
    "live_record",
    "release_record",
    "stop",
]

POLL_S = 0.25
_ERROR_LINES = 25
_HARMLESS = ("NVML", "DCGM", "CUDA driver version")  # said by every server on a host without a GPU


class Backend(Protocol):
    """What servers of one kind are made with."""

    def start(self, record: ServerRecord, record_path: Path) -> ServerRecord:
        """Writes the record and starts the server; returns the record with what identifies it."""

    def settle(self, record: ServerRecord) -> None:
        """Called once the server is ready for the first time."""

    def find(self, record: ServerRecord, record_path: Path) -> ServerRecord | None:
        """The record if its server runs, else nothing, and then nothing is left of it."""

    def is_up(self, record: ServerRecord) -> bool:
        """Whether it is this server that has the HTTP port."""

    def why_gone(self, record: ServerRecord) -> str | None:
        """How it ended; None if it has not."""

    def collect_log(self, record: ServerRecord) -> None:
        """Brings ``record.log`` up to date."""

    def stop(self, record: ServerRecord, record_path: Path, grace_s: float) -> None:
        """Ends it and removes the record."""


def launch(
    plan: ServerPlan,
    record_path: Path,
    *,
    timeout_s: float,
    log: Log = print,
    gpus: AbstractContextManager[tuple[str, ...]] | None = None,
) -> ServerRecord:
    """Starts a server and waits until it is ready. Its output goes beside the record, as ``.log``.

    ``gpus`` gives the device ids for a plan that needs any, and holds them until the server does; see
    `include.context.Context.launch`.

    Raises:
        HostError: a port is taken (the message names it and who has it), or the engine lacks something.
        ToolError: it died or was not ready in time, with its own last error lines; nothing of it is left.
        TransientError: the Docker engine went away.
    """
    for port in plan.ports.all:
        check_port_free(port)
    backend = _backend(plan, log)
    with gpus or nullcontext(()) as devices:
        record = ServerRecord(plan=plan, log=record_path.with_suffix(".log"), gpus=devices)
        try:
            record = backend.start(record, record_path)
            log(f"started {Path(plan.argv[0]).name}, {record}, log {record.log}")
            _wait_until_ready(record, backend, timeout_s)
            backend.settle(record)
        except BaseException:
            backend.stop(record, record_path, grace_s=0)
            raise
    return record


def find(record_path: Path) -> ServerRecord | None:
    """The server of that record if that very server runs; what is left of one that does not is removed.

    Raises:
        TransientError: its Docker engine does not answer.
    """
    record = processes.read(record_path, ServerRecord)
    return record and _backend(record.plan).find(record, record_path)


def is_ready(record: ServerRecord) -> bool:
    """Whether that very server runs, has its port, and says that all its models are ready."""
    return _is_ready(record, _backend(record.plan))


def stop(record: ServerRecord, record_path: Path, *, grace_s: float = processes.GRACE_S) -> None:
    """Ends a server and its model processes: asked to, then, after ``grace_s``, killed. Its ports are free after."""
    _backend(record.plan).stop(record, record_path, grace_s)


def _backend(plan: ServerPlan, log: Log = print) -> Backend:
    return ContainerServers(plan.container, log) if plan.container else ProcessServers()


def _is_ready(record: ServerRecord, backend: Backend) -> bool:
    try:
        answer = httpx.get(f"{record.url}/v2/health/ready", timeout=5, trust_env=False)
    except httpx.TransportError:
        return False
    return answer.status_code == httpx.codes.OK and backend.is_up(record)


def _wait_until_ready(record: ServerRecord, backend: Backend, timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    while not _is_ready(record, backend):
        if why := backend.why_gone(record):
            raise _failure(f"the server died as it started: {why}", record, backend)
        if time.monotonic() > deadline:
            raise _failure(f"the server was not ready within {timeout_s:g} s", record, backend)
        time.sleep(POLL_S)


def _failure(what: str, record: ServerRecord, backend: Backend) -> ToolError:
    backend.collect_log(record)
    return ToolError(f"{what}\n{_last_errors(record.log)}", where=str(record.log))


def _last_errors(log: Path) -> str:
    """What a server said last about its failure: lines of level E and those about errors, else its last lines."""
    text = log.read_text(errors="replace") if log.exists() else ""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    lines = [line for line in lines if not any(word in line for word in _HARMLESS)]
    errors = [line for line in lines if line.startswith("E") or "error" in line.lower() or "Traceback" in line]
    return "\n".join(line[:500] for line in (errors or lines)[-_ERROR_LINES:])
