"""Task ``promote_release``: the candidate goes live; the server that passed the gates is the one that serves."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from include import report
from include.artifacts.kind import Kind
from include.artifacts.store import ArtifactStore
from include.context import Context
from include.live.address import LiveAddress
from include.releases.ids import ReleaseId
from include.releases.records import Release
from include.releases.rule import Rule
from include.requests.release import ReleaseRequest, Swap
from include.tasks import LiveRelease, contracts


def run(context: Context, release: ReleaseId, params: Mapping[str, Any]) -> LiveRelease:
    """Moves the live address to the release. If that fails, the release before it answers again.

    A candidate that died meanwhile is launched anew from the release.

    Raises:
        UserError: the release has to be approved, and is not; or it would break clients, which the deployment refuses.
        PipelineError: the release did not answer, or not as it should, through the live address.
    """
    chosen = contracts.record(context, context.releases.get(release.model, release.number))
    contracts.check(context, chosen)
    request = ReleaseRequest.parse(dict(params))
    rule = Rule.of(context.settings, request)
    return go_live(context, chosen, request.swap, rule, candidate=context.candidate_record)


def go_live(context: Context, release: Release, swap: Swap, rule: Rule, candidate: Path | None = None) -> LiveRelease:
    """Moves the live address to the release, and writes the promotion into its report."""
    live = LiveAddress(context)
    promoted = live.promote(release, swap=swap, candidate=candidate, rule=rule)
    report.record_history(context.releases.path(promoted), promoted)
    made = LiveRelease.of(promoted, live.url, context)
    context.tell(f"release {made.release}, {'promoted' if made.new else 'live already'}")
    return made


def event(context: Context, made: LiveRelease) -> dict[str, Any]:
    """The ``extra`` of the asset event: the fields of the release, and the repository's key and digest."""
    repository = ArtifactStore(context.settings.artifacts).get(Kind.REPOSITORY, made.repository)
    fields = made.model_dump(mode="json", exclude={"repository"})
    return {**fields, "key": repository.name, "digest": repository.content}
