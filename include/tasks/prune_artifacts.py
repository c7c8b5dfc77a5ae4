"""Task ``prune_artifacts``: frees the disk of artifacts that nothing needs any more."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from include.artifacts.store import ArtifactStore
from include.context import Worker
from include.live.address import Live
from include.releases.prune import Pruner, PruneReport
from include.requests.operations import PruneRequest


def run(worker: Worker, params: Mapping[str, Any]) -> PruneReport:
    """Removes what `include.releases.prune.Pruner` does not keep, or tells what it would remove."""
    request = PruneRequest.parse(dict(params))
    for run_id in worker.pins.drop_stale(worker.is_over):
        worker.log(f"run {run_id} is over, without its teardown: its pins are dropped")
    with Live(worker).held() as served:
        report = Pruner(
            store=ArtifactStore(worker.settings.artifacts),
            releases=worker.releases,
            pins=worker.pins,
            keep_last=request.keep_last,
            keep_for=timedelta(days=request.keep_days),
            log=worker.log,
            served=served,
        ).prune(dry_run=request.dry_run)
    for name in report.releases:
        worker.log(f"release {name} {'would be' if report.dry_run else 'is'} pruned: no rollback to it any more")
    worker.log(f"{'would free' if report.dry_run else 'freed'} {report.freed_bytes / 1e6:.1f} MB")
    return report
