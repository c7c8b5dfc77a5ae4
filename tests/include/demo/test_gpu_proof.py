"""The proof record: a release's report, written and read back."""

from __future__ import annotations

from pathlib import Path

import pytest

from include import report
from include.demo import gpu_proof
from include.errors import ToolError
from include.gates import Sample
from include.releases.run import RunRecord, TaskTime
from include.report import ReleaseReport, Subject
from include.requests.release import ReleaseRequest
from tests.support.report import WHEN, load, stage, verdict
from tests.support.report import report as example

REQUEST = ReleaseRequest.parse({**gpu_proof.REQUEST, "model": gpu_proof.MODEL}).model_dump(mode="json")


@pytest.fixture
def release(tmp_path: Path) -> Path:
    """A release's directory, with the report of a run on a GPU."""
    made = example(
        verdict("speed", loads=(load("candidate", 8, 2048.0),)),
        subject=Subject(
            model="NousResearch--Llama-2-7b-hf", number=1, target="tensorrt_llm", source=f"{gpu_proof.MODEL}@abc"
        ),
        request=REQUEST,
        chain=(
            stage("checkpoints", "calibrate_awq", timings_s={"search": 10.5, "export": 4.5}, gpu="NVIDIA L40S"),
            stage(timings_s={"trtllm-build": 236.4}, gpu="NVIDIA L40S", versions={"tensorrt_llm": "1.2.1"}),
        ),
        run=RunRecord(
            id="manual__1",
            tasks=(
                TaskTime(task="calibrate_awq", state="success", seconds=61.0),
                TaskTime(task="approve_release", state="skipped"),
            ),
            versions={"driver": "550.54"},
        ),
        answers=(Sample(prompt="How?", answer="\nLike this."),),
    )
    report.write(tmp_path / "1", made)
    return tmp_path / "1"


@pytest.fixture
def page(release: Path, tmp_path: Path) -> Path:
    return gpu_proof.write(release, tmp_path / "docs" / "proof")


def test_both_files_are_named_by_date_and_gpu_and_the_json_is_the_report(page: Path, release: Path) -> None:
    assert page.name == f"{WHEN:%Y-%m-%d}-NVIDIA-L40S.html"
    found = ReleaseReport.model_validate_json(page.with_suffix(".json").read_text())
    assert found == report.read(release)
    assert {stage.gpu for stage in found.chain} == {"NVIDIA L40S"}


@pytest.mark.parametrize(
    "part",
    [gpu_proof.MODEL, "abc", "calibrate_awq", "trtllm-build", "1.2.1", "550.54", "2048", "How?", "Like this."],
)
def test_the_page_shows_what_was_measured(page: Path, part: str) -> None:
    assert part in page.read_text()


def test_a_release_without_a_gpu_is_no_proof(tmp_path: Path) -> None:
    with pytest.raises(ToolError, match="on which GPU"):
        gpu_proof.write(tmp_path / "none", tmp_path / "docs")
    report.write(tmp_path, example())
    with pytest.raises(ToolError, match="on which GPU"):
        gpu_proof.write(tmp_path, tmp_path / "docs")


def test_the_request_is_one_that_the_form_takes() -> None:
    assert ReleaseRequest.parse({**gpu_proof.REQUEST, "model": gpu_proof.MODEL}).target == "tensorrt_llm"
