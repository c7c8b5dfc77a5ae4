"""Task ``stop_candidate``: teardown. Whatever happened before, no candidate server stays."""

from __future__ import annotations

from include import servers
from include.worker import Worker


def run(worker: Worker) -> None:
    """Stops this run's candidate if there is one."""
    record = servers.find(worker.candidate_record)
    if record is None:
        worker.log("no candidate server to stop")
        return
    servers.stop(record, worker.candidate_record)
    worker.log(f"candidate (pid {record.pid}) stopped")
