"""The pace of earlier runs: how long each task took for the last release of a model that has a report."""

from __future__ import annotations

from pydantic import Field

from include.frozen import Frozen
from include.releases.records import Release, ReleaseStore
from include.report.files import read
from include.report.model import ReleaseReport
from include.requests.release import ReleaseRequest
from include.stages.progress import about


class Pace(Frozen):
    """The seconds of a task, and of the parts of its program in their order, for an earlier release."""

    release: str
    seconds: float
    parts: dict[str, float] = Field(default_factory=dict)

    def __str__(self) -> str:
        return f"it may take about {about(self.seconds)}, as for release {self.release}"


def paces(releases: ReleaseStore, request: ReleaseRequest) -> dict[str, Pace]:
    """The pace of each task for the newest release of the request's model and target; empty if there is none.

    A stage that took its artifact from the store counts with the time of its making.
    """
    history = releases.all(releases.name_of(request.model))
    for release in reversed(history):
        found = read(releases.path(release)) if release.target == request.target else None
        if found:
            return _paces(release, found)
    return {}


def _paces(release: Release, report: ReleaseReport) -> dict[str, Pace]:
    made = {}
    for stage in report.chain:
        seconds = (stage.created_at - stage.started_at).total_seconds() if stage.started_at else stage.seconds
        if seconds is not None:
            made[stage.task] = Pace(release=release.name, seconds=seconds, parts=stage.timings_s)
    others = report.run.tasks if report.run else ()
    return {
        one.task: Pace(release=release.name, seconds=one.seconds) for one in others if one.seconds is not None
    } | made
