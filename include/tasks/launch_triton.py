"""Task ``launch_triton``: a candidate Triton on its own ports, ready and alive."""

from __future__ import annotations

from functools import partial

from include import report
from include.artifacts.kind import Kind
from include.context import Context
from include.live.address import LiveAddress
from include.live.launch import launch_on_free_ports
from include.releases.records import Release
from include.tasks import ArtifactRef, Checked
from include.triton import servers
from include.triton.servers import ServerRecord


def run(
    context: Context, checked: Checked, repository: ArtifactRef, original: ArtifactRef | None = None
) -> ServerRecord | None:
    """Launches the candidate; a candidate that this run left behind is stopped first.

    None, and nothing is touched, if the release of this repository is live and was proved for this very request.
    With ``swap: recreate`` the live server of its name makes room for it. If the run ends without a new live release,
    its teardown starts that server again.

    Raises:
        ToolError: the server died or was not ready in time; the message holds its own last error lines.
        HostError: the asked port is taken.
    """
    path = repository.load(context.store).path
    if live := _proved(context, checked, repository, original):
        context.log(f"hit: release {live.name} was made of it for the same request and is live: no candidate is needed")
        return None
    if left := servers.find(context.candidate_record):
        servers.stop(left, context.candidate_record)
    if checked.request.swap == "recreate":
        LiveAddress(context).suspend(checked.request.name)
    target = context.target(checked.request.target)
    plan = partial(target.server, path)
    if pace := report.paces(context.releases, checked.request).get("launch_triton"):
        context.progress(str(pace))
    record = launch_on_free_ports(context, plan, context.candidate_record, checked.request.candidate_http_port)
    context.log(f"candidate answers on {record.url}, log {record.log}")
    return record


def _proved(
    context: Context, checked: Checked, repository: ArtifactRef, original: ArtifactRef | None
) -> Release | None:
    """The live release of its name, if it is all that the request asks for, limits and tasks of the gates included."""
    live = context.releases.live(checked.request.name)
    if live is None or live.repository != repository.name:
        return None
    if original and live.chain.get(Kind.ORIGINAL) != original.name:
        return None
    if not live.asks_the_same(checked.request.model_dump(mode="json")):
        return None
    return live if report.read(context.releases.path(live)) else None
