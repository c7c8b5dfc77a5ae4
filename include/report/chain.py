"""The manifest chain: model commit, checkpoint, engine, repository."""

from __future__ import annotations

from include.artifacts.kind import Kind
from include.artifacts.store import Artifact, ArtifactStore
from include.releases.records import Release
from include.report.model import Stage

MAKERS = {
    Kind.MODEL: "pull_model",
    Kind.CHECKPOINT: "calibrate_awq",
    Kind.ENGINE: "build_engine",
    Kind.REPOSITORY: "assemble_repository",
}


def chain_of(release: Release, store: ArtifactStore) -> tuple[Stage, ...]:
    """The making of each artifact of the release, the model first. An artifact that was pruned is left out."""
    commit = release.chain["model"].rpartition("@")[2]
    names = {Kind.MODEL: f"{release.model}@{commit}", **release.chain}
    found = (store.find(kind, names[kind]) for kind in MAKERS if kind in names)
    return tuple(_stage(artifact) for artifact in found if artifact)


def _stage(artifact: Artifact) -> Stage:
    manifest = artifact.manifest
    tools = {name: v for name, v in manifest.inputs.get("environment", {}).items() if isinstance(v, str)}
    measured = ("timings_s", "peak_rss_bytes", "gpu_peak_bytes", "gpu", "results")
    return Stage(
        task=MAKERS[manifest.kind],
        kind=manifest.kind,
        name=manifest.name,
        content=artifact.content,
        files=len(manifest.outputs),
        size_bytes=sum(output.size for output in manifest.outputs),
        started_at=manifest.started_at,
        created_at=manifest.created_at,
        host=manifest.host,
        versions=tools | manifest.report.get("versions", {}),
        **{name: manifest.report[name] for name in measured if name in manifest.report},
    )
