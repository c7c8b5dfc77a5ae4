"""A field that no stage knows makes its stage, and those after it, miss; one that changes no bytes makes none miss."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from include.artifacts.kind import Kind
from include.context import Context
from include.requests.catalogue import Entry
from include.requests.release import ReleaseRequest, form_field
from include.runners.job import StageJob
from include.targets.openvino import OpenVinoTarget
from include.targets.tensorrt_llm import engines
from include.targets.tensorrt_llm.settings import TensorRTLLMSettings
from include.targets.vllm import VllmTarget
from include.tasks import (
    ArtifactRef,
    Checked,
    Pulled,
    assemble_repository,
    build_engine,
    calibrate_awq,
    check_request,
    pull_model,
    rebuild,
)

PARAMS = {"awq_group_size": 64, "calib_seq_len": 64, "max_input_len": 128, "max_seq_len": 256}
ALL = {Kind.CHECKPOINT, Kind.ENGINE, Kind.REPOSITORY}


class NewRequest(ReleaseRequest):
    """The request of a version to come, with one more field in each section."""

    new_model: int = form_field("Model", "New", "New.", 0)
    new_quantization: int = form_field("Quantization", "New", "New.", 0)
    new_engine: int = form_field("Engine", "New", "New.", 0)
    new_serving: int = form_field("Serving", "New", "New.", 0)
    new_gates: int = form_field("Gates", "New", "New.", 0)
    new_promotion: int = form_field("Promotion", "New", "New.", 0)


@pytest.fixture
def checked(context: Context, model: Path) -> Checked:
    return check_request.run(context, {"model": str(model), **PARAMS})


@pytest.fixture
def pulled(context: Context, checked: Checked) -> Pulled:
    return pull_model.run(context, checked)


def make(context: Context, job: StageJob) -> ArtifactRef:
    with context.store.claim(job.kind, job.inputs, log=context.log) as claim:
        if not claim.hit:
            (claim.partial / "tokenizer").mkdir()
            claim.commit()
    return ArtifactRef(kind=job.kind, name=claim.name, reused=claim.hit)


def keys(context: Context, checked: Checked, pulled: Pulled, request: ReleaseRequest) -> dict[Kind, str]:
    asked = checked.model_copy(update={"request": request})
    checkpoint = make(context, calibrate_awq.job(context, asked, pulled))
    engine = make(context, build_engine.job(context, asked, checkpoint))
    repository = assemble_repository.run(context, asked, checkpoint, engine)
    return {made.kind: made.name for made in (checkpoint, engine, repository)}


@pytest.mark.parametrize(
    ("field", "value", "misses"),
    [
        ("new_model", 1, ALL),
        ("new_quantization", 1, ALL),
        ("new_engine", 1, {Kind.ENGINE, Kind.REPOSITORY}),
        ("new_serving", 1, {Kind.REPOSITORY}),
        ("new_gates", 1, set()),
        ("new_promotion", 1, set()),
        ("calib_size", 16, ALL),
        ("precision", "fast", {Kind.ENGINE, Kind.REPOSITORY}),
        ("max_batch_size", 4, {Kind.REPOSITORY}),
        ("streaming", False, {Kind.REPOSITORY}),
        ("candidate_http_port", 8123, set()),
        ("min_agreement", 0.9, set()),
        ("test_prompts", ["else"], set()),
        ("swap", "recreate", set()),
    ],
)
def test_a_field_counts_for_the_stage_of_its_section_and_those_after_it(
    context: Context, checked: Checked, pulled: Pulled, field: str, value: object, misses: set[Kind]
) -> None:
    request = NewRequest(**checked.request.model_dump())
    before = keys(context, checked, pulled, request)
    after = keys(context, checked, pulled, request.model_copy(update={field: value}))
    assert {kind for kind in Kind if before.get(kind) != after.get(kind)} == misses


def test_a_field_that_is_new_counts_at_its_default_too(context: Context, checked: Checked, pulled: Pulled) -> None:
    today = keys(context, checked, pulled, checked.request)
    to_come = keys(context, checked, pulled, NewRequest(**checked.request.model_dump()))
    assert {kind for kind in today if today[kind] != to_come[kind]} == ALL


def test_keys_of_earlier_versions_still_hit(context: Context, checked: Checked, pulled: Pulled) -> None:
    options = {"dtype": "float16", "group-size": 64, "calib-size": 32, "calib-seq-len": 64, "tp-size": 1}
    assert calibrate_awq.job(context, checked, pulled).inputs["options"] == options | {"device": "cpu"}
    assert context.target("openvino").build_options(checked.request) == {"precision": "exact"}
    made = context.store.find(Kind.REPOSITORY, keys(context, checked, pulled, checked.request)[Kind.REPOSITORY])
    assert set(made.manifest.inputs) == {"checkpoint", "engine", "templates", "values"}


class GpuTarget(OpenVinoTarget):
    """A target for formats that need a GPU, as far as a key goes."""

    name = "vllm"
    device = "cuda"

    def calibrate_options(self) -> dict[str, str]:
        return VllmTarget.calibrate_options(self)  # type: ignore[arg-type]


def test_a_key_has_the_format_and_no_option_of_another(
    context: Context, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("include.context.get_target", lambda name, *deployment: GpuTarget(*deployment))

    def options(**fields: object) -> dict[str, object]:
        asked = check_request.run(
            context, {"model": str(model), **PARAMS, "target": "vllm", "calib_size": 32, **fields}
        )
        found: dict[str, object] = calibrate_awq.job(context, asked, pull_model.run(context, asked)).inputs["options"]
        return found

    common = {"dtype": "float16", "calib-size": 32, "calib-seq-len": 64, "tp-size": 1, "device": "cuda"}
    assert options() == common | {"group-size": 64, "smoothing": "foldable"}
    assert options(quantization="fp8") == common | {"quantization": "fp8"}
    assert options(quantization="fp8", awq_group_size=128) == options(quantization="fp8")


def test_a_run_is_told_which_field_its_format_does_not_use(
    context: Context, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("include.context.get_target", lambda name, *deployment: GpuTarget(*deployment))
    said: list[str] = []
    told = replace(context, log=said.append)
    asked = {"model": str(model), **PARAMS, "target": "vllm"}
    check_request.run(told, asked)
    assert any("target vllm: int4 in groups of 64, calibrated with" in line for line in said)
    assert not any("not used" in line for line in said)
    check_request.run(told, {**asked, "quantization": "fp8", "awq_group_size": 128})  # divides no dimension
    assert any("target vllm: fp8 weights and activations" in line for line in said)
    assert [line for line in said if "not used" in line] == ["field awq_group_size is not used: FP8 has no such thing"]


def test_a_new_field_of_the_engine_counts_for_tensorrt_llm() -> None:
    known = engines.build_options(ReleaseRequest(), TensorRTLLMSettings())
    assert set(known) == {
        "max-batch-size",
        "max-input-len",
        "max-seq-len",
        "max-num-tokens",
        "gemm-plugin",
        "gpt-attention-plugin",
    }
    assert engines.build_options(NewRequest(new_engine=1), TensorRTLLMSettings()) == known | {"new-engine": "1"}


@pytest.mark.parametrize(
    ("field", "counts"),
    [
        ("new_model", True),
        ("new_quantization", True),
        ("new_engine", True),
        ("new_serving", True),
        ("new_gates", True),
        ("new_promotion", False),
        ("candidate_http_port", False),
        ("swap", False),
    ],
)
def test_a_new_field_is_a_change_of_a_followed_model(
    context: Context, model: Path, monkeypatch: pytest.MonkeyPatch, field: str, counts: bool
) -> None:
    def inputs(value: object) -> dict[str, object]:
        request = NewRequest(model=str(model), **PARAMS).model_copy(update={field: value})
        monkeypatch.setattr(Entry, "request", request)
        return rebuild.fingerprint(context, Entry(name="followed", model=str(model), target="openvino")).inputs

    assert (inputs(0) != inputs(1)) is counts


@pytest.mark.parametrize("ignored", [calibrate_awq._IGNORED, assemble_repository._IGNORED, rebuild._IGNORED])
def test_only_fields_that_exist_are_ignored(ignored: dict[str, str]) -> None:
    assert set(ignored) <= set(ReleaseRequest.model_fields)
    assert all(ignored.values())


def test_of_a_followed_model_all_is_compared_but_how_it_goes_live() -> None:
    compared = ReleaseRequest().section(*rebuild._COMPARED, ignored=rebuild._IGNORED)
    assert set(ReleaseRequest.model_fields) - set(compared) == {
        "revision",
        "candidate_http_port",
        "require_approval",
        "approvers",
        "approval_timeout_h",
        "swap",
        "served_name",
        "aliases",
    }
