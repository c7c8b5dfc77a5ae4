"""Task ``promote_release``: the candidate goes live; the server that passed the gates is the one that serves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from include import report
from include.context import Worker
from include.live.address import Live
from include.requests.release import ReleaseRequest
from include.tasks import LiveRelease, ReleaseRef
from include.tasks.events import live_event


def run(worker: Worker, release: ReleaseRef, params: Mapping[str, Any]) -> LiveRelease:
    """Moves the live address to the release. Whatever goes wrong, the one before it answers again.

    A candidate that died meanwhile is launched anew from the release.

    Raises:
        PipelineError: the release did not answer, or not as it should, through the live address.
    """
    live = Live(worker)
    chosen = worker.releases.get(release.model, release.number)
    promoted = live.promote(chosen, candidate=worker.candidate_record, swap=ReleaseRequest.parse(dict(params)).swap)
    report.record_promotions(worker.releases.path(promoted), promoted)
    return LiveRelease.of(promoted, live.url, worker)


event = live_event
