"""The report in its release: composed from gates and manifests, written, found again."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from include import gates, report
from include.artifacts.store import ArtifactStore
from include.releases.records import Promotion, Release, ReleaseStore
from include.releases.run import RunRecord, TaskTime
from tests.support.report import WHEN, full_report, verdict
from tests.support.report import report as example

COMMIT = "c" * 40
RUN = RunRecord(id="run")


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore(tmp_path)


def put(store: ArtifactStore, kind: str, inputs: dict[str, object], *, name: str | None = None, stage: str = "") -> str:
    with store.claim(kind, inputs, log=lambda line: None, name=name) as claim:
        (claim.partial / "data").write_text("bytes")
        if stage:
            (claim.partial / "stage.json").write_text(stage)
        return claim.commit().name


@pytest.fixture
def release(store: ArtifactStore) -> Release:
    put(store, "models", {"commit": COMMIT}, name=f"org--model@{COMMIT}")
    record = '{"timings_s": {"load": 2.5, "search": 7.5}, "peak_rss_bytes": 4000, "versions": {"torch": "2"}}'
    checkpoint = put(
        store, "checkpoints", {"environment": {"torch": "1", "image": "sha256:i", "all": {}}}, stage=record
    )
    engine = put(store, "engines", {"checkpoint": checkpoint})
    repository = put(store, "repositories", {"engine": engine})
    return ReleaseStore(store.root / "releases").open(
        "org--model",
        target="openvino",
        repository=repository,
        chain={
            "checkpoints": checkpoint,
            "engines": engine,
            "repositories": repository,
            "model": f"org/model@{COMMIT}",
        },
        request={"model": "org/model"},
    )


def found() -> gates.Report:
    endpoint = gates.Endpoint(host="127.0.0.1", http_port=1, grpc_port=2)
    return gates.Report(verdicts=(verdict("ready"),), endpoint=endpoint)


def test_a_report_comes_back_as_it_was_written(tmp_path: Path) -> None:
    report.write(tmp_path, full_report())
    assert report.read(tmp_path) == full_report()
    assert "org--model" in (tmp_path / "report.html").read_text()


def test_a_quality_that_is_no_number_can_be_read_again(tmp_path: Path) -> None:
    quality = gates.Quality(before=float("nan"), after=float("inf"), samples=1, tokens=1)
    report.write(tmp_path, example(quality=quality))
    read = report.read(tmp_path)
    assert read
    assert repr(read.quality) == repr(quality)


def test_the_chain_leads_from_the_model_to_the_repository(store: ArtifactStore, release: Release) -> None:
    chain = report.compose(found(), release, store, RUN).chain
    assert [(stage.task, stage.name) for stage in chain] == [
        ("pull_model", f"org--model@{COMMIT}"),
        ("calibrate_awq", release.chain["checkpoints"]),
        ("build_engine", release.chain["engines"]),
        ("assemble_repository", release.repository),
    ]
    assert {(stage.files, stage.size_bytes) for stage in chain} == {(1, 5)}


def test_a_stage_has_its_time_its_memory_and_its_versions(store: ArtifactStore, release: Release) -> None:
    stage = report.compose(found(), release, store, RUN).chain[1]
    assert stage.seconds == 10
    assert stage.peak_rss_bytes == 4000
    assert stage.versions == {"torch": "2", "image": "sha256:i"}


def test_a_stage_that_measured_nothing_has_no_time(store: ArtifactStore, release: Release) -> None:
    assert report.compose(found(), release, store, RUN).chain[0].seconds is None


def test_an_artifact_that_was_pruned_is_left_out_of_the_chain(store: ArtifactStore, release: Release) -> None:
    store.get("models", f"org--model@{COMMIT}").path.joinpath("manifest.json").unlink()
    assert [stage.kind for stage in report.compose(found(), release, store, RUN).chain] == [
        "checkpoints",
        "engines",
        "repositories",
    ]


def test_a_report_names_every_run_once_newest_last(store: ArtifactStore, release: Release) -> None:
    made = None
    for run in ("first", "second", "first"):
        made = report.compose(found(), release, store, RunRecord(id=run), made)
    assert made
    assert made.runs == ("second", "first")


def test_a_stage_says_when_its_making_began_and_ended(store: ArtifactStore, release: Release) -> None:
    for stage in report.compose(found(), release, store, RUN).chain:
        assert stage.started_at
        assert stage.started_at <= stage.created_at


def test_the_run_that_tried_the_gates_gets_its_later_tasks(tmp_path: Path) -> None:
    versions = {"triton": "2.51.0"}
    report.write(tmp_path, example(runs=("run",), run=RunRecord(id="run", versions=versions)))
    tasks = (TaskTime(task="promote_release", state="success", seconds=3.5),)
    report.record_run(tmp_path, RunRecord(id="run", tasks=tasks))
    read = report.read(tmp_path)
    assert read
    assert (read.runs, read.run) == (("run",), RunRecord(id="run", versions=versions, tasks=tasks))


def test_a_run_that_found_the_release_proved_leaves_the_record_of_the_one_that_did(tmp_path: Path) -> None:
    report.write(tmp_path, example(runs=("run",), run=RUN))
    report.record_run(tmp_path, RunRecord(id="later", tasks=(TaskTime(task="a", state="success"),)))
    read = report.read(tmp_path)
    assert read
    assert (read.runs, read.run) == (("run", "later"), RUN)


@pytest.mark.parametrize(
    "text", [None, "{}", '{"schema_version": 1, "verdicts": []}'], ids=["none", "empty", "version 1"]
)
def test_a_report_that_this_version_cannot_read_counts_as_none(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / "report.json").write_text(text)
    assert report.read(tmp_path) is None


def test_going_live_is_added_to_the_report(tmp_path: Path, release: Release) -> None:
    report.write(tmp_path, example())
    promoted = release.model_copy(update={"promotions": (Promotion(at=WHEN, downtime_s=1.5),)})
    report.record_history(tmp_path, promoted)
    assert report.read(tmp_path) == example(promotions=promoted.promotions)
    assert "1.50 s without a server" in (tmp_path / "report.html").read_text()


def test_a_release_without_a_report_can_go_live(tmp_path: Path, release: Release) -> None:
    report.record_history(tmp_path, release)
    assert not (tmp_path / "report.json").exists()


def test_a_runs_report_is_the_last_that_it_wrote(tmp_path: Path) -> None:
    for number, run in ((1, "again"), (2, "again"), (3, "other")):
        directory = tmp_path / "org--model" / str(number)
        report.write(directory, example(runs=(run,)))
        os.utime(directory / "report.json", (number, number))
    assert report.find_by_run(tmp_path, "again") == tmp_path / "org--model" / "2"
    assert report.find_by_run(tmp_path, "unknown") is None


def test_the_scores_are_what_the_gates_measured() -> None:
    assert full_report().scores == report.Scores(
        agreement=0.5, perplexity_before=10, perplexity_after=12, tokens_per_s={1: 30, 4: 120}
    )


def test_what_was_not_measured_has_no_score() -> None:
    assert example().scores == report.Scores()


def test_a_report_has_the_settings_that_differ_from_the_live_release(store: ArtifactStore, release: Release) -> None:
    releases = ReleaseStore(store.root / "releases")
    request = {"model": "org/model", "max_batch_size": 4, "dtype": "float16"}
    chain = {"model": f"org/model@{'d' * 40}"}
    live = releases.open("org--model", target="openvino", repository="other", chain=chain, request=request)
    made = report.compose(found(), release, store, RUN, live=live, address="http://a", curl="curl -s")
    assert made.compared
    assert made.compared.release == live.id
    assert {one.field: (one.live, one.here) for one in made.compared.settings} == {
        "max_batch_size": (4, None),
        "dtype": ("float16", None),
        "commit": ("d" * 40, COMMIT),
    }
    assert (made.address, made.curl) == ("http://a", "curl -s")


@pytest.mark.parametrize("live", ["none", "itself"])
def test_without_another_live_release_nothing_is_compared(store: ArtifactStore, release: Release, live: str) -> None:
    made = report.compose(found(), release, store, RUN, live=release if live == "itself" else None)
    assert (made.compared, made.subject.replaces) == (None, "")
