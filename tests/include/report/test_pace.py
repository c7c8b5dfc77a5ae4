"""How long a run may take, from the last release of its model."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from include import report
from include.releases.records import ReleaseStore
from include.releases.run import RunRecord, TaskTime
from include.report.pace import Pace, paces
from include.report.runs import Run, Task
from include.requests.release import ReleaseRequest
from tests.support.report import WHEN, stage
from tests.support.report import report as example

REQUEST = ReleaseRequest(model="org/model")
RUN = RunRecord(
    id="manual__1",
    tasks=(
        TaskTime(task="calibrate_awq", state="success", seconds=1.0),
        TaskTime(task="launch_triton", state="success", seconds=9.0),
    ),
)
CALIBRATED = stage(
    "checkpoints",
    "calibrate_awq",
    started_at=WHEN - timedelta(seconds=150),
    timings_s={"load": 10.0, "search": 100.0},
)


@pytest.fixture
def releases(tmp_path: Path) -> ReleaseStore:
    store = ReleaseStore(tmp_path)
    for target in ("openvino", "vllm"):
        release = store.open("org--model", target=target, repository=target, chain={}, request={"model": "org/model"})
        report.write(store.path(release), example(run=RUN, chain=(CALIBRATED,)))
    return store


def test_a_stage_takes_as_long_as_its_artifact_took_even_if_the_run_reused_it(releases: ReleaseStore) -> None:
    found = paces(releases, REQUEST)
    assert found["calibrate_awq"] == Pace(release="org--model/1", seconds=150, parts={"load": 10.0, "search": 100.0})
    assert str(found["launch_triton"]) == "it may take about 10 s, as for release org--model/1"


@pytest.mark.parametrize(
    "request_", [ReleaseRequest(model="org/other"), ReleaseRequest(model="org/model", target="tensorrt_llm")]
)
def test_another_model_or_target_tells_nothing(releases: ReleaseStore, request_: ReleaseRequest) -> None:
    assert paces(releases, request_) == {}


@pytest.mark.parametrize(
    ("note", "title", "outcome"),
    [
        ("name int4 g64 -> release 3, promoted\nmine -> theirs", "name int4 g64", "release 3, promoted"),
        ("name int4 g64 -> refused: a -> b", "name int4 g64", "refused: a -> b"),
        ("name int4 g64", "name int4 g64", ""),
        ("", "r", ""),
    ],
)
def test_the_note_of_a_run_tells_what_it_is_and_what_came_of_it(note: str, title: str, outcome: str) -> None:
    run = Run("release_awq_engine", "r", "success", note, WHEN, None, {})
    assert (run.title, run.outcome) == (title, outcome)


@pytest.mark.parametrize(("state", "seconds"), [("success", 0.4), ("failed", 0.4), ("upstream_failed", None)])
def test_a_task_that_has_not_run_took_no_time(state: str, seconds: float | None) -> None:
    assert Task("build_engine", state, seconds=0.4).elapsed(WHEN) == seconds


def test_what_is_left_of_a_run_is_what_its_tasks_have_not_used_yet() -> None:
    known = {task: Pace(release="r", seconds=100) for task in ("calibrate_awq", "build_engine", "launch_triton")}
    tasks = {
        "calibrate_awq": Task("calibrate_awq", "success", seconds=400),
        "build_engine": Task("build_engine", "running", WHEN),
    }
    run = Run("release_awq_engine", "r", "running", "", WHEN, None, tasks)
    assert run.left(known, WHEN + timedelta(seconds=30)) == 170
    assert run.left(known, WHEN + timedelta(seconds=300)) == 100, "a task that is late counts nothing"
    assert run.left({}, WHEN) is None
