"""Services: detached programs that outlive their starter, and are found again by a record.

A service is a process of this host or a container of its Docker engine. Its record, a JSON file, is written before it
starts and holds a token that the process carries in its environment, the container in a label. So `find`
also finds a service whose starter was killed, at whatever moment.
"""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias, TypeVar

from pydantic import Field, ValidationError

from include.files import write_atomic
from include.frozen import Frozen
from include.host.docker.containers import ContainerSpec

if TYPE_CHECKING:
    from include.host.services.container import ContainerBackend
    from include.host.services.process import ProcessBackend

    Backend: TypeAlias = ContainerBackend | ProcessBackend

LAST_LINES = 15
_LOG_OPTIONS = {"max-size": "64m", "max-file": "4"}  # without a limit, a service's log would grow as long as it runs


class ServiceSpec(Frozen):
    """The specification of a service. Without ``container`` it is a process.

    A process gets only ``env``, and the locale and home of its starter. The ``container`` leaves out the values that
    the service sets: its program, environment, label and GPUs.
    """

    argv: tuple[str, ...]
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
    token: str = Field(default_factory=lambda: secrets.token_hex(16))
    pid: int = 0
    container_id: str = ""
    gpus: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"container {self.container_id[:12]}" if self.container_id else f"pid {self.pid}"


R = TypeVar("R", bound=ServiceRecord)


def read(path: Path, kind: type[R]) -> R | None:
    """The record at ``path``, even if its service has ended; an unreadable record is removed."""
    try:
        return kind.model_validate_json(path.read_text())
    except FileNotFoundError:
        return None
    except ValidationError:
        path.unlink(missing_ok=True)
        return None


def write(record: ServiceRecord, path: Path) -> None:
    """Writes the record atomically."""
    write_atomic(path, record.model_dump_json(indent=1))


def keep_last(log: Path) -> None:
    """Renames an existing log to ``.1``, to make room for a new one."""
    if log.exists():
        log.replace(log.with_suffix(f"{log.suffix}.1"))


def last_lines(log: Path) -> str:
    """The last lines of a service's log."""
    return "\n".join(log.read_text(errors="replace").splitlines()[-LAST_LINES:]) if log.exists() else ""


def find(path: Path, kind: type[R], backend: Backend) -> R | None:
    """The record at ``path`` if its service runs; the remains of a service that has ended are removed."""
    record = read(path, kind)
    return record and backend.find(record, path)
