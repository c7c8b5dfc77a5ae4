"""Task ``stop_candidate``: teardown. No server and no container of this run stays, however it ended."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from include import report
from include.context import Context
from include.errors import UserError
from include.host.docker.engine import local_engine
from include.live.address import LiveAddress
from include.requests.release import ReleaseRequest
from include.runners.container import StageContainers
from include.runners.container_job import remove_abandoned


def run(context: Context, params: Mapping[str, Any] | None = None) -> None:
    """Stops this run's candidate, lets go of its artifacts, and sees to it that the live release of its name answers.

    Stage containers of the run that no worker waits for any more are removed, too. The report of its release gets the
    times of the run's tasks.

    Raises:
        PipelineError: the live release had made room for the candidate, and its server cannot be started again.
    """
    if context.settings.runner == "docker":
        runner = StageContainers(local_engine, context.log)
        for container in remove_abandoned(runner, context.store, context.dag_id, context.run_id):
            context.log(f"container {container[:12]} was left by a cancelled stage: removed with its partial directory")
    live = LiveAddress(context)
    lives = live.finish_run(_name(params or {}))
    for release in lives:
        context.log(f"release {release.name} is live as {release.served_name} at {live.url}")
    if not lives:
        context.log("nothing is live")
    if found := report.find_by_run(context.releases.root, context.run_id):
        report.record_run(found, context.run)


def _name(params: Mapping[str, Any]) -> str:
    """The served name that the run is about; empty if its params were refused, so that nothing was started."""
    try:
        return ReleaseRequest.parse(dict(params)).name
    except UserError:
        return ""
