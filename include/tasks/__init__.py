"""One module for each task id of the DAGs: the work of the task, without Airflow.

A module has ``run(context, ...)``, which does the task, or ``job(context, ...)``, which returns the stage program that
a runner is to start; ``event(context, made)`` makes the ``extra`` of an asset's event. Tasks hand on small JSON: the
models below.
"""

from __future__ import annotations

from typing import Any, Self

from include import report
from include.artifacts.kind import Kind
from include.artifacts.store import Artifact, ArtifactStore
from include.context import Context
from include.frozen import Frozen
from include.gates import Outcome
from include.model.config import ModelConfig
from include.releases.contract import Comparison
from include.releases.records import Release
from include.report import Scores
from include.requests.release import ReleaseRequest
from include.sources import DatasetSource, ModelSource
from include.triton.client import path_of


class Checked(Frozen):
    """A request that can be met, with the facts that `check_request` found."""

    request: ReleaseRequest
    source: ModelSource
    dataset: DatasetSource | None = None
    config: ModelConfig


class ArtifactRef(Frozen):
    """An artifact by its name in the store, which is the same on every worker.

    ``reused`` says that this run took it from there instead of making it.
    """

    kind: Kind
    name: str
    reused: bool

    def load(self, store: ArtifactStore) -> Artifact:
        """The artifact; raises `HostError` if this worker's store does not have it."""
        return store.get(self.kind, self.name)

    def event(self, artifact: Artifact, scores: dict[str, Any], report: str) -> dict[str, Any]:
        """The ``extra`` of the asset event: ``new`` if this run made the artifact, ``report`` is the path of a file."""
        return {
            "key": artifact.name,
            "digest": artifact.content,
            "new": not self.reused,
            "scores": scores,
            "report": str(artifact.path / report),
        }


class Pulled(Frozen):
    """The artifacts that `pull_model` put into the store."""

    model: ArtifactRef
    dataset: ArtifactRef | None = None


class LiveRelease(Frozen):
    """A release at the live address: ``release`` is its number, ``endpoint`` the URL that generates.

    Clients call it by ``name`` or one of ``aliases``; if ``default`` is true, also by none (``ensemble``). ``new`` is
    true if this run made it live; ``downtime_s``: the seconds without a server before that. ``contract``: the changes
    for clients of the release that was live before it. ``passed``, ``gates`` and ``scores`` are those of its report.
    Programs read this; docs/rest-api.md describes it.
    """

    model: str
    release: int
    name: str
    aliases: tuple[str, ...]
    default: bool
    endpoint: str
    new: bool
    passed: bool | None
    gates: dict[str, Outcome]
    scores: Scores
    report: str
    report_url: str | None
    repository: str
    downtime_s: float
    contract: Comparison | None = None

    @classmethod
    def of(cls, release: Release, url: str, context: Context) -> Self:
        """The facts about a release that is live at ``url``."""
        directory = context.releases.path(release)
        found = report.read(directory)
        return cls(
            model=release.model,
            release=release.number,
            name=release.served_name,
            aliases=release.aliases,
            default=release.served_name == context.releases.default_name(),
            endpoint=f"{context.settings.public_url or url}{path_of('generate', release.served_name)}",
            new=release.promoted_by == context.run_id,
            passed=found.passed if found else None,
            gates=found.outcomes if found else {},
            scores=found.scores if found else Scores(),
            report=str(directory / report.HTML_FILE),
            report_url=f"{context.web_url}/hf2triton/reports/{release.name}/{report.HTML_FILE}" if found else None,
            repository=release.repository,
            downtime_s=release.promotions[-1].downtime_s if release.promotions else 0,
            contract=release.contract,
        )
