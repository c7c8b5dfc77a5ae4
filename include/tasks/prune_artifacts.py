"""Task ``prune_artifacts``: frees the disk of artifacts that nothing needs any more."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from include.artifacts.store import ArtifactStore
from include.context import Context
from include.live.address import LiveAddress
from include.releases.prune import Pruner, PruneReport
from include.requests.operations import PruneRequest


def run(context: Context, params: Mapping[str, Any]) -> PruneReport:
    """Removes the artifacts that `include.releases.prune.Pruner` does not keep; on a dry run only names them."""
    request = PruneRequest.parse(dict(params))
    for run_id in context.pins.drop_stale(context.is_over):
        context.log(f"run {run_id} is over, without its teardown: its pins are dropped")
    with LiveAddress(context).held() as served:
        report = Pruner(
            store=ArtifactStore(context.settings.artifacts),
            releases=context.releases,
            pins=context.pins,
            keep_last=request.keep_last,
            keep_for=timedelta(days=request.keep_days),
            log=context.log,
            served=served,
        ).prune(dry_run=request.dry_run)
    for name in report.releases:
        context.log(f"release {name} {'would be' if report.dry_run else 'is'} pruned: no rollback to it any more")
    freed = f"{'would free' if report.dry_run else 'freed'} {report.freed_bytes / 1e6:.1f} MB"
    freed += f" of {report.store_bytes / 1e6:.1f} MB of artifacts"
    context.log(freed)
    context.tell(freed)
    return report
