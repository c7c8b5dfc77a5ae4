"""The proof record: a release's report, written and read back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from include import report
from include.demo import gpu_proof, run
from include.errors import ToolError
from include.gates import Sample
from include.releases.run import RunRecord, TaskTime
from include.report import ReleaseReport, Subject
from include.requests.release import ReleaseRequest
from include.stages.formats import FORMATS
from include.targets.fields import check_fields
from tests.support.report import WHEN, load, stage, verdict
from tests.support.report import report as example

REQUEST = ReleaseRequest.parse(gpu_proof.request("tensorrt_llm")).model_dump(mode="json")


def on_gpu(**fields: Any) -> ReleaseReport:
    """The report of a run on a GPU."""
    return example(
        verdict("speed", loads=(load("candidate", 8, 2048.0),)),
        subject=Subject(
            model="NousResearch--Llama-2-7b-hf", number=1, target="tensorrt_llm", source=f"{gpu_proof.MODEL}@abc"
        ),
        request={**REQUEST, **fields},
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


@pytest.fixture
def release(tmp_path: Path) -> Path:
    """A release's directory, with the report of a run on a GPU."""
    report.write(tmp_path / "1", on_gpu())
    return tmp_path / "1"


@pytest.fixture
def page(release: Path, tmp_path: Path) -> Path:
    return gpu_proof.write(release, tmp_path / "docs" / "proof")


def test_both_files_are_named_by_date_gpu_and_target_and_the_json_is_the_report(page: Path, release: Path) -> None:
    assert page.name == f"{WHEN:%Y-%m-%d}-NVIDIA-L40S-tensorrt_llm.html"
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


def test_a_record_of_another_format_has_a_name_of_its_own(tmp_path: Path) -> None:
    report.write(tmp_path / "1", on_gpu(quantization="fp8"))
    page = gpu_proof.write(tmp_path / "1", tmp_path / "docs")
    assert page.name == f"{WHEN:%Y-%m-%d}-NVIDIA-L40S-tensorrt_llm-fp8.html"


@pytest.mark.parametrize("target", gpu_proof.TARGETS)
@pytest.mark.parametrize("quantization", FORMATS)
def test_the_requests_are_those_that_the_form_and_the_target_take(target: str, quantization: str) -> None:
    asked = ReleaseRequest.parse(gpu_proof.request(target, quantization, "/models/one"))
    check_fields(asked)
    assert (asked.target, asked.quantization, asked.model) == (target, quantization, "/models/one")
    assert asked.served_name == gpu_proof.NAME


class Airflow:
    """What `gpu_proof` asks of Airflow; ``failing`` are targets whose runs fail, or the DAG that does."""

    def __init__(self, releases: Path, failing: str = "") -> None:
        self.releases, self.failing = releases, failing
        self.asked: list[str] = []

    def trigger(self, dag: str, conf: dict[str, Any]) -> str:
        self.asked.append(f"{dag} {conf['name']}")
        return "one"

    def run_state(self, dag: str, one: str) -> str:
        return "failed" if self.failing == dag else "success"

    def tasks(self, dag: str, one: str) -> dict[str, str]:
        return {dag: "the task"}

    def error(self, dag: str, one: str, task: str) -> str:
        return "the proxy is gone"

    def release(self, _: object, conf: dict[str, Any], __: object) -> run.Outcome:
        self.asked.append(f"{conf['target']} {conf['quantization']}")
        if conf["target"] == self.failing:
            raise ToolError("build_engine failed")
        made = on_gpu(quantization=conf["quantization"])
        subject = made.subject.model_copy(update={"target": conf["target"]})
        report.write(self.releases / conf["target"], made.model_copy(update={"subject": subject}))
        page = self.releases / conf["target"] / report.HTML_FILE
        return run.Outcome(released={"report": str(page)}, reused=frozenset())


def in_one_go(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, *arguments: str, failing: str = ""
) -> tuple[int, list[str], list[str]]:
    """The exit code, what was asked of Airflow, and the names of the pages. A release is live before the second."""
    there = Airflow(tmp_path / "releases", failing)
    monkeypatch.setattr(gpu_proof.airflow, "start", lambda _: there)
    monkeypatch.setattr(gpu_proof.run, "release", there.release)
    monkeypatch.setattr(gpu_proof, "live_records", lambda _: {gpu_proof.NAME: Path()} if there.asked else {})
    code = gpu_proof.main([*arguments, "--out", str(tmp_path / "docs")])
    return code, there.asked, sorted(path.name for path in (tmp_path / "docs").glob("*.html"))


def test_both_targets_in_one_go_and_the_second_has_the_gpu_for_itself(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    code, asked, pages = in_one_go(monkeypatch, tmp_path, "tensorrt_llm", "vllm", "--quantization", "fp8")
    assert code == 0
    assert asked == ["tensorrt_llm fp8", "retire_model gpu-proof", "vllm fp8"]
    assert pages == [f"{WHEN:%Y-%m-%d}-NVIDIA-L40S-{target}-fp8.html" for target in ("tensorrt_llm", "vllm")]


def test_a_target_that_fails_does_not_keep_the_next_one_from_its_record(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    code, _, pages = in_one_go(monkeypatch, tmp_path, "tensorrt_llm", "vllm", failing="tensorrt_llm")
    assert code == 1
    assert pages == [f"{WHEN:%Y-%m-%d}-NVIDIA-L40S-vllm.html"]


def test_a_release_that_stays_on_the_gpu_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, pages = in_one_go(monkeypatch, tmp_path, "tensorrt_llm", "vllm", failing="retire_model")
    assert (code, len(pages)) == (1, 1)
    assert "retire_model failed: the proxy is gone" in capsys.readouterr().out
