"""Servers as processes of this host."""

from __future__ import annotations

import os
from pathlib import Path

from include.host import processes
from include.triton.servers.plan import ServerRecord

INHERITED = ("HOME", "LANG", "LC_ALL", "TMPDIR", "TZ")
_MEMORY = Path("/dev/shm")  # noqa: S108 - where the kernel has shared memory


class ProcessServers:
    """The `include.triton.servers.Backend` of servers without a container."""

    def start(self, record: ServerRecord, record_path: Path) -> ServerRecord:
        """Raises `ToolError` if it ended at once."""
        inherited = {name: os.environ[name] for name in INHERITED if name in os.environ}
        return processes.spawn(record, record_path, record.plan.argv, {**inherited, **record.plan.env})

    def settle(self, record: ServerRecord) -> None:
        """A process has nobody who would start it again."""

    def find(self, record: ServerRecord, record_path: Path) -> ServerRecord | None:
        """The record with its pid, if that very process runs."""
        return processes.find(record_path, ServerRecord)

    def is_up(self, record: ServerRecord) -> bool:
        """Whether that very process listens on the HTTP port."""
        process = processes.process_of(record)
        return process is not None and record.ports.http in processes.listening(process)

    def why_gone(self, record: ServerRecord) -> str | None:
        """How a process that is nobody's child ended is not known."""
        return None if processes.process_of(record) else "it ended"

    def collect_log(self, record: ServerRecord) -> None:
        """The process writes it itself."""

    def stop(self, record: ServerRecord, record_path: Path, grace_s: float) -> None:
        """Ends its model processes as well, and removes their shared memory."""
        processes.stop(record, record_path, grace_s=grace_s)
        if prefix := record.plan.shared_memory:
            for segment in _MEMORY.glob(f"{prefix}*"):
                segment.unlink(missing_ok=True)
