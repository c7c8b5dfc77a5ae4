"""Task ``check_live_release``: what is live is alive, and answers as it did when it was promoted."""

from __future__ import annotations

from include.context import Worker
from include.live.address import Live
from include.tasks import LiveRelease


def run(worker: Worker) -> LiveRelease | None:
    """Asks the live release, and restarts its server once if the answer is missing or wrong; None if nothing is live.

    It also tidies up after runs that ended without their teardown.

    Raises:
        PipelineError: the restart did not help; the message holds the server's own last lines.
    """
    for run_id in worker.pins.drop_stale(worker.is_over):
        worker.log(f"run {run_id} is over, without its teardown: its pins are dropped")
    live = Live(worker)
    release = live.check()
    if release is None:
        worker.log("nothing is live")
        return None
    if away := live.away():
        worker.log(f"release {release.name} is away since {away.since:%H:%M:%S}, on purpose, for run {away.run}")
    else:
        worker.log(f"release {release.name} answers at {live.url} as it did when it was promoted")
    return LiveRelease.of(release, live.url, worker)
