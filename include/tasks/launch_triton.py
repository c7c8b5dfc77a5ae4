"""Task ``launch_triton``: a candidate Triton on its own ports, ready and alive."""

from __future__ import annotations

from include import servers
from include.servers import Ports, ServerRecord
from include.tasks import ArtifactRef, Checked
from include.worker import Worker


def run(worker: Worker, checked: Checked, repository: ArtifactRef) -> ServerRecord:
    """Launches the candidate; a candidate that this run left behind is stopped first.

    Raises:
        ToolError: the server died or was not ready in time; the message holds its own last error lines.
        HostError: the asked port is taken.
    """
    left = servers.find(worker.candidate_record)
    if left is not None:
        servers.stop(left, worker.candidate_record)
    target = worker.target(checked.request.target)
    http, grpc, metrics = servers.free_ports(3)
    ports = Ports(http=checked.request.candidate_http_port or http, grpc=grpc, metrics=metrics)
    record = servers.launch(
        target.server_command(repository.load(worker.store).path, ports),
        worker.candidate_record,
        ports=ports,
        timeout_s=worker.settings.launch_timeout_s,
        log=worker.log,
    )
    worker.log(f"candidate answers on http://{worker.settings.bind_address}:{ports.http}, log {record.log}")
    return record
