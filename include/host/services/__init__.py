"""Services: detached programs that outlive their starter, and are found again by a record.

A service is a process of this host or a container of its Docker engine. Its record, a JSON file, is written before it
starts and holds a token that the process carries in its environment, the container in a label. So `find`
also finds a service whose starter was killed, at whatever moment.
"""

from __future__ import annotations

import os
import secrets
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias, TypeVar

from pydantic import Field

from include.files import Damaged, Skip, Unreadable, find_record, ignore, write_atomic
from include.frozen import Frozen
from include.host.docker.containers import ContainerSpec

if TYPE_CHECKING:
    from include.host.services.container import ContainerBackend
    from include.host.services.process import ProcessBackend

    Backend: TypeAlias = ContainerBackend | ProcessBackend

LAST_LINES = 15
_LONGEST_LINE = 500
LOG_BYTES = 64 << 20
"""The size at which a log is moved to ``.1`` while its service writes on."""

_LOG_OPTIONS = {"max-size": "64m", "max-file": "4"}  # without a limit, a service's log would grow as long as it runs


class ServiceSpec(Frozen):
    """The specification of a service. Without ``container`` it is a process.

    A process gets only ``env``, and the locale and home of its starter. The ``container`` leaves out the values that
    the service sets: its program, environment, label and GPUs.
    """

    argv: tuple[str, ...] = Field(min_length=1)
    env: dict[str, str] = Field(default_factory=dict)
    container: ContainerSpec | None = None

    def in_container(self, box: ContainerSpec) -> ContainerSpec:
        """The container ``box`` with the service's program and environment."""
        options = box.log_options or _LOG_OPTIONS
        return box.model_copy(update={"argv": self.argv, "env": self.env, "log_options": options})


class ServiceRecord(Frozen):
    """The record of a started service; ``pid`` is 0 and ``container_id`` empty until they are known.

    A process is identified by pid and token: the pid alone may be reused, and a start time moves with the host's
    clock. ``gpus`` are the device ids that the service holds.
    """

    log: Path
    token: str = Field(default_factory=lambda: secrets.token_hex(16), min_length=1)
    pid: int = Field(default=0, ge=0, lt=2**31)
    container_id: str = ""
    gpus: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"container {self.container_id[:12]}" if self.container_id else f"pid {self.pid}"


R = TypeVar("R", bound=ServiceRecord)


def read(path: Path, kind: type[R], skip: Skip = ignore) -> R | None:
    """The record at ``path``, even if its service has ended; a damaged one goes to ``skip``, and stays.

    Raises:
        Unreadable: the system refuses to read it, so its service may well run.
    """
    try:
        return find_record(path, kind)
    except Unreadable:
        raise
    except Damaged as damage:
        skip(damage)
        return None


def write(record: ServiceRecord, path: Path) -> None:
    """Writes the record atomically."""
    write_atomic(path, record.model_dump_json(indent=1))


def keep_last(log: Path) -> None:
    """Renames an existing log to ``.1``, to make room for a new one."""
    log.parent.mkdir(parents=True, exist_ok=True)
    if log.exists():
        log.replace(_before(log))


def rotate(log: Path, most_bytes: int = LOG_BYTES) -> bool:
    """Moves the text of a log that has grown beyond a size to ``.1``; its service, which appends to it, goes on.

    Lines that are written at this moment are lost, as with logrotate's ``copytruncate``.
    """
    if log.stat().st_size <= most_bytes:
        return False
    shutil.copyfile(log, _before(log))
    os.truncate(log, 0)
    return True


def last_lines(log: Path) -> str:
    """The last lines of a service's log."""
    lines = log.read_text(errors="replace").splitlines()[-LAST_LINES:] if log.exists() else []
    return "\n".join(line[:_LONGEST_LINE].rstrip() for line in lines)


def obituary(record: ServiceRecord, backend: Backend) -> str | None:
    """The way in which a service ended, with its last lines; None if it still runs."""
    if why := backend.why_gone(record):
        backend.collect_log(record)
        return f"{why}\n{last_lines(record.log)}".strip()
    return None


def find(path: Path, kind: type[R], backend: Backend) -> R | None:
    """The record at ``path`` if its service runs; the remains of a service that has ended are removed."""
    record = read(path, kind)
    return record and backend.find(record, path)


def _before(log: Path) -> Path:
    return log.with_suffix(f"{log.suffix}.1")
