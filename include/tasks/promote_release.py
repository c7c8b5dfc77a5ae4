"""Task ``promote_release``: the candidate goes live; the server that passed the gates is the one that serves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from include import report
from include.context import Context
from include.live.address import LiveAddress
from include.releases.records import ReleaseId
from include.requests.release import ReleaseRequest
from include.tasks import LiveRelease


def run(context: Context, release: ReleaseId, params: Mapping[str, Any]) -> LiveRelease:
    """Moves the live address to the release. Whatever goes wrong, the one before it answers again.

    A candidate that died meanwhile is launched anew from the release.

    Raises:
        PipelineError: the release did not answer, or not as it should, through the live address.
    """
    live = LiveAddress(context)
    chosen = context.releases.get(release.model, release.number)
    promoted = live.promote(chosen, candidate=context.candidate_record, swap=ReleaseRequest.parse(dict(params)).swap)
    report.record_promotions(context.releases.path(promoted), promoted)
    return LiveRelease.of(promoted, live.url, context)


def event(context: Context, made: LiveRelease) -> dict[str, Any]:
    """What the task returned."""
    return made.event(context)
