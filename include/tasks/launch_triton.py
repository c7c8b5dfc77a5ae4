"""Task ``launch_triton``: a candidate Triton on its own ports, ready and alive."""

from __future__ import annotations

from include import servers
from include.live import Live
from include.servers import Ports, ServerRecord
from include.tasks import ArtifactRef, Checked
from include.worker import Worker


def run(worker: Worker, checked: Checked, repository: ArtifactRef) -> ServerRecord:
    """Launches the candidate; a candidate that this run left behind is stopped first.

    With ``swap: stop_first`` the live server makes room for it. If the run ends without a new live release, its
    teardown starts that server again.

    Raises:
        ToolError: the server died or was not ready in time; the message holds its own last error lines.
        HostError: the asked port is taken.
    """
    path = repository.load(worker.store).path
    if left := servers.find(worker.candidate_record):
        servers.stop(left, worker.candidate_record)
    if checked.request.swap == "stop_first":
        Live(worker).step_aside()
    target = worker.target(checked.request.target)
    http, grpc, metrics = servers.free_ports(3)
    ports = Ports(http=checked.request.candidate_http_port or http, grpc=grpc, metrics=metrics)
    record = worker.launch(target.server(path, ports), worker.candidate_record)
    worker.log(f"candidate answers on {record.url}, log {record.log}")
    return record
