"""Task ``check_live_release``: the live release is alive, and answers as it did at its promotion."""

from __future__ import annotations

from include.context import Context
from include.live.address import LiveAddress
from include.tasks import LiveRelease


def run(context: Context) -> LiveRelease | None:
    """Asks the live release, and restarts its server once if the answer is missing or wrong; None if nothing is live.

    It also tidies up after runs that ended without their teardown.

    Raises:
        PipelineError: the restart did not help; the message holds the server's own last lines.
    """
    for run_id in context.pins.drop_stale(context.is_over):
        context.log(f"run {run_id} is over, without its teardown: its pins are dropped")
    live = LiveAddress(context)
    release = live.check()
    if release is None:
        context.log("nothing is live")
        return None
    if suspended := live.suspended():
        context.log(f"release {release.name} is suspended since {suspended.since:%H:%M:%S} for run {suspended.run}")
    else:
        context.log(f"release {release.name} answers at {live.url} as it did when it was promoted")
    return LiveRelease.of(release, live.url, context)
