"""Task ``check_live_release``: each live release is alive, and answers as it did at its promotion."""

from __future__ import annotations

from include.context import Context
from include.errors import PipelineError
from include.live.address import LiveAddress, raise_all
from include.tasks import LiveRelease


def run(context: Context) -> list[LiveRelease]:
    """Asks each live release, and restarts its server once if the answer is missing or wrong; returns all that live.

    It also tidies up after runs that ended without their teardown.

    Raises:
        PipelineError: a restart did not help; the message names each such model, and holds its server's last lines.
    """
    for run_id in context.pins.drop_stale(context.is_over):
        context.log(f"run {run_id} is over, without its teardown: its pins are dropped")
    live = LiveAddress(context)
    failed: dict[str, PipelineError] = {}
    for name in context.releases.live_names():
        try:
            _check(context, live, name)
        except PipelineError as error:
            failed[name] = error
            context.log(f"{name} does not answer: {error}")
    live.tidy()
    raise_all(failed)
    lives = context.releases.lives().values()
    if not lives:
        context.log("nothing is live")
    context.tell(f"{len(lives)} live, all answer" if lives else "nothing is live")
    return [LiveRelease.of(release, live.url, context) for release in lives]


def _check(context: Context, live: LiveAddress, name: str) -> None:
    release = live.check(name)
    if release is None:
        return
    if suspended := live.suspended(name):
        context.log(f"release {release.name} is suspended since {suspended.since:%H:%M:%S} for run {suspended.run}")
    else:
        context.log(f"release {release.name} answers as {name} at {live.url} as it did when it was promoted")
