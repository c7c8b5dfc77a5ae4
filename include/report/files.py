"""A release's report as files: composed by the task that validates, read by the web UI."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from include import gates
from include.artifacts.kind import Kind
from include.artifacts.store import Artifact, ArtifactStore
from include.files import Damaged, Skip, find_record, ignore, write_atomic
from include.releases.records import Release
from include.releases.run import RunRecord
from include.report.model import Compared, ReleaseReport, Stage, Subject, Supply

JSON_FILE = "report.json"
HTML_FILE = "report.html"
_MAKERS = {
    Kind.MODEL: "pull_model",
    Kind.ORIGINAL: "measure_original",
    Kind.CHECKPOINT: "calibrate_awq",
    Kind.ENGINE: "build_engine",
    Kind.REPOSITORY: "assemble_repository",
}


def compose(
    verdicts: gates.Report,
    release: Release,
    store: ArtifactStore,
    run: RunRecord,
    known: ReleaseReport | None = None,
    supply: Supply | None = None,
    live: Release | None = None,
    address: str = "",
    curl: str = "",
) -> ReleaseReport:
    """The report on a release. ``run``: the DAG run that tried the gates; ``known``: the report of a run before.

    ``live``: the live release that has the served name; ``address`` and ``curl``: fields of the report.
    """
    return ReleaseReport(
        **dict(verdicts),
        subject=Subject(
            model=release.model,
            number=release.number,
            target=release.target,
            source=release.chain["model"],
            served_name=release.served_name,
            aliases=release.aliases,
            replaces=live.name if live and release.replaces(live) else "",
        ),
        runs=_with(known.runs if known else (), run.id),
        run=run,
        request=release.request,
        chain=_chain_of(release, store),
        supply=supply,
        compared=Compared.of(live, release) if live and live.id != release.id else None,
        contract=release.contract,
        promotions=release.promotions,
        approvals=release.approvals,
        retirements=release.retirements,
        address=address,
        curl=curl,
    )


def _chain_of(release: Release, store: ArtifactStore) -> tuple[Stage, ...]:
    """The making of each artifact of the release, the model first. An artifact that was pruned is left out."""
    commit = release.chain["model"].rpartition("@")[2]
    names = {Kind.MODEL: f"{release.model}@{commit}", **release.chain}
    found = (store.find(kind, names[kind]) for kind in _MAKERS if kind in names)
    return tuple(_stage(artifact) for artifact in found if artifact)


def _stage(artifact: Artifact) -> Stage:
    manifest = artifact.manifest
    tools = {name: v for name, v in manifest.inputs.get("environment", {}).items() if isinstance(v, str)}
    measured = ("timings_s", "peak_rss_bytes", "gpu_peak_bytes", "gpu", "results")
    return Stage(
        task=_MAKERS[manifest.kind],
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


def write(directory: Path, report: ReleaseReport) -> None:
    """Writes ``report.json`` and ``report.html``, each whole or not at all."""
    # Late, because whoever only reads reports needs no template engine.
    from include.report.page import render_report

    write_atomic(directory / JSON_FILE, report.model_dump_json(indent=1))
    write_atomic(directory / HTML_FILE, render_report(report))


def record_run(directory: Path, run: RunRecord) -> None:
    """Writes the report anew: a run came to its release, or has more tasks behind it than the report knows."""
    known = read(directory)
    if known is None:
        return
    changes: dict[str, Any] = {"runs": _with(known.runs, run.id)}
    if known.run and known.run.id == run.id:
        changes["run"] = known.run.model_copy(update={"tasks": run.tasks})
    write(directory, known.model_copy(update=changes))


def record_history(directory: Path, release: Release) -> None:
    """Writes the report anew, with the release's approvals, its contract and the times that it went live so far."""
    if known := read(directory):
        names = ("promotions", "approvals", "retirements", "contract")
        history = {name: getattr(release, name) for name in names}
        write(directory, known.model_copy(update=history))


def read(directory: Path, skip: Skip = ignore) -> ReleaseReport | None:
    """The report in a release's directory, None if it has none, or one that is damaged or of another schema version."""
    try:
        return find_record(directory / JSON_FILE, ReleaseReport)
    except Damaged as damage:
        skip(damage)
        return None


def find_by_run(releases: Path, run_id: str) -> Path | None:
    """The directory of the release that a DAG run validated last, if it came so far: that of the highest number."""
    written = (path.parent for path in releases.glob(f"*/[1-9]*/{JSON_FILE}") if path.parent.name.isdecimal())
    for directory in sorted(written, key=lambda path: int(path.name), reverse=True):
        report = read(directory)
        if report and run_id in report.runs:
            return directory
    return None


def _with(runs: tuple[str, ...], run_id: str) -> tuple[str, ...]:
    return (*(run for run in runs if run != run_id), run_id)
