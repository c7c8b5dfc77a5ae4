"""What the tasks ask a runner for."""

from __future__ import annotations

from pathlib import Path

import pytest

from include.context import Context
from include.requests.release import ReleaseRequest
from include.targets.openvino import OpenVinoTarget
from include.tasks import ArtifactRef, Checked, build_engine, calibrate_awq, check_request, pull_model

PARAMS = {"awq_group_size": 64, "calib_seq_len": 64, "max_input_len": 128, "max_seq_len": 256}


class ThreeGpus(OpenVinoTarget):
    """A target whose stages take three GPUs."""

    def gpus(self, request: ReleaseRequest) -> int:
        return 3


@pytest.fixture
def checked(context: Context, model: Path, monkeypatch: pytest.MonkeyPatch) -> Checked:
    monkeypatch.setattr("include.context.get_target", lambda name, *deployment: ThreeGpus(*deployment))
    return check_request.run(context, {"model": str(model), **PARAMS})


def test_a_calibration_takes_as_many_gpus_as_its_target_says(context: Context, checked: Checked) -> None:
    job = calibrate_awq.job(context, checked, pull_model.run(context, checked))
    assert (job.kind, job.gpus) == ("checkpoints", 3)


def test_what_the_gates_demand_is_in_no_key(context: Context, checked: Checked) -> None:
    pulled = pull_model.run(context, checked)
    stricter = checked.request.model_copy(
        update={"min_agreement": 0.9, "max_perplexity_increase": 0.01, "test_prompts": ["else"]}
    )
    strictly = checked.model_copy(update={"request": stricter})
    assert calibrate_awq.job(context, strictly, pulled) == calibrate_awq.job(context, checked, pulled)
    target = context.target("openvino")
    assert target.build_options(stricter) == target.build_options(checked.request)
    paths = (checked.config, Path("/c"), Path("/e"))
    assert target.repository_values(stricter, *paths) == target.repository_values(checked.request, *paths)


def test_a_build_takes_as_many_gpus_as_its_target_says(context: Context, checked: Checked) -> None:
    with context.store.claim("checkpoints", {"is": "made up"}, log=context.log) as claim:
        (claim.partial / "config.json").write_text("{}")
        claim.commit()
    job = build_engine.job(context, checked, ArtifactRef(kind="checkpoints", name=claim.name, reused=False))
    assert (job.kind, job.gpus) == ("engines", 3)
