"""Task ``launch_triton``: a candidate Triton on its own ports, ready and alive."""

from __future__ import annotations

from include import report
from include.context import Worker
from include.live.address import Live
from include.releases.records import Release
from include.tasks import ArtifactRef, Checked
from include.triton import servers
from include.triton.servers import Ports, ServerRecord


def run(worker: Worker, checked: Checked, repository: ArtifactRef) -> ServerRecord | None:
    """Launches the candidate; a candidate that this run left behind is stopped first.

    None, and nothing is touched, if the release of this repository is live and was proved for this very request.
    With ``swap: stop_first`` the live server makes room for it. If the run ends without a new live release, its
    teardown starts that server again.

    Raises:
        ToolError: the server died or was not ready in time; the message holds its own last error lines.
        HostError: the asked port is taken.
    """
    path = repository.load(worker.store).path
    if live := _proved(worker, checked, repository):
        worker.log(f"hit: release {live.name} was made of it for the same request, and is live: no candidate is needed")
        return None
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


def _proved(worker: Worker, checked: Checked, repository: ArtifactRef) -> Release | None:
    """The live release, if it is all that the request asks for: limits of the gates are part of a request, too."""
    live = worker.releases.live()
    if live is None or live.repository != repository.name or live.request != checked.request.model_dump(mode="json"):
        return None
    return live if report.read(worker.releases.path(live)) else None
