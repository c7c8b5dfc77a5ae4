"""Task ``promote_release``: the candidate's repository becomes what the live address serves."""

from __future__ import annotations

from typing import Any

from include import servers
from include.errors import PipelineError
from include.releases import Release
from include.servers import Ports, ServerRecord
from include.tasks import ReleaseRef
from include.worker import Worker


def run(worker: Worker, release: ReleaseRef) -> dict[str, Any]:
    """Makes the live server serve the release, then moves ``current``; returns what a client needs to know.

    If the new server does not become ready, the one before is started again and the release stays a candidate.
    """
    chosen = worker.releases.get(release.model, release.number)
    live = servers.find(worker.live_record)
    path = worker.store.get("repositories", chosen.repository).path
    if live is not None and live.repository == path and servers.is_ready(live):
        worker.log(f"the live server serves release {chosen.number} of {chosen.model} already: nothing to swap")
    else:
        live = _swap(worker, chosen, live)
    worker.releases.make_current(chosen)
    endpoint = f"http://{worker.settings.bind_address}:{live.ports.http}/v2/models/ensemble/generate"
    worker.log(f"release {chosen.number} of {chosen.model} is live at {endpoint}")
    return {
        "model": chosen.model,
        "release": chosen.number,
        "endpoint": endpoint,
        "report": str(worker.releases.path(chosen) / "report.md"),
    }


def _swap(worker: Worker, release: Release, before: ServerRecord | None) -> ServerRecord:
    if before is not None:
        servers.stop(before, worker.live_record)
    try:
        return _launch(worker, release)
    except PipelineError:
        if before is not None:
            worker.log("the new live server is not healthy: the one before is started again")
            servers.launch(
                before.command,
                worker.live_record,
                ports=before.ports,
                timeout_s=worker.settings.launch_timeout_s,
                log=worker.log,
            )
        raise


def _launch(worker: Worker, release: Release) -> ServerRecord:
    settings = worker.settings
    ports = Ports(http=settings.live_http_port, grpc=settings.live_grpc_port, metrics=settings.live_metrics_port)
    path = worker.store.get("repositories", release.repository).path
    return servers.launch(
        worker.target(release.target).server_command(path, ports),
        worker.live_record,
        ports=ports,
        timeout_s=settings.launch_timeout_s,
        log=worker.log,
    )
