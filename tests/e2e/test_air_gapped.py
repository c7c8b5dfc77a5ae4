"""A whole release of a tiny model where there is no network but loopback: from its directory to the live endpoint.

Every task's own code runs, in this process, and every stage program and server as the process runner starts it.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest

from include import report
from include.context import Context
from include.host.ports import free_ports
from include.live.address import LiveAddress
from include.runners.job import StageJob
from include.runners.process import ProcessRunner
from include.settings import PROJECT, Settings
from include.tasks import (
    ArtifactRef,
    LiveRelease,
    assemble_repository,
    build_engine,
    calibrate_awq,
    check_request,
    launch_triton,
    promote_release,
    pull_model,
    validate_generate,
)
from tests.support.no_network import no_network

TEXT = "".join(f"The {n}th document of this file counts to {n} and says no more than that.\n" for n in range(200))
PARAMS = {
    "awq_group_size": 16,
    "calib_size": 4,
    "calib_seq_len": 32,
    "max_input_len": 128,
    "max_seq_len": 192,
    "max_batch_size": 4,
    # Random weights say nothing: how well is not what this is about.
    "min_agreement": 0,
    "max_repetition": 1,
    "max_perplexity_increase": 100,
    "max_perplexity_decrease": 1,
    "speed_concurrencies": [1],
}


@dataclass(frozen=True)
class Outcome:
    """A finished run, what its programs said, and how often any of them wanted more than loopback."""

    live: LiveRelease
    answer: str
    log: list[str] = field(repr=False)
    attempts: int


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model")
    python = Settings().openvino_python
    subprocess.run([python, "-m", "tests.support.tiny_models", "plain", path], cwd=PROJECT, env={}, check=True)
    return path


@pytest.fixture(scope="module")
def context(tmp_path_factory: pytest.TempPathFactory) -> Context:
    http, grpc, metrics = free_ports(3)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF2TRITON_ARTIFACTS", str(tmp_path_factory.mktemp("artifacts")))
        patch.setenv("HF2TRITON_RUNNER", "process")
        patch.setenv("HF2TRITON_LIVE_HTTP_PORT", str(http))
        patch.setenv("HF2TRITON_LIVE_GRPC_PORT", str(grpc))
        patch.setenv("HF2TRITON_LIVE_METRICS_PORT", str(metrics))
        settings = Settings()
    return Context(settings=settings, log=[].append, dag_id="release_awq_engine", run_id="manual__1")


@pytest.fixture(scope="module")
def outcome(model: Path, context: Context, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Outcome]:
    data = tmp_path_factory.mktemp("data") / "calibration.txt"
    data.write_text(TEXT)
    log: list[str] = []
    with no_network() as attempts, pytest.MonkeyPatch.context() as patch:
        # What would keep programs silent must come from the target, not from who runs the tests.
        for name in ("CI", "HF_HUB_OFFLINE", "DO_NOT_TRACK"):
            patch.delenv(name, raising=False)
        try:
            live = release(context, {**PARAMS, "model": str(model), "calib_data": str(data)}, log)
            body = {"text_input": "Hello", "max_tokens": 8}
            answer = httpx.post(live.endpoint, json=body, trust_env=False, timeout=60).raise_for_status()
            yield Outcome(live, answer.json()["text_output"], log, attempts())
        finally:
            LiveAddress(context).stop()


def release(context: Context, params: dict[str, object], log: list[str]) -> LiveRelease:
    """What the DAG does, task by task."""
    checked = check_request.run(context, params)
    pulled = pull_model.run(context, checked)
    checkpoint = make(context, calibrate_awq.job(context, checked, pulled), log)
    engine = make(context, build_engine.job(context, checked, checkpoint), log)
    repository = assemble_repository.run(context, checked, checkpoint, engine)
    candidate = launch_triton.run(context, checked, repository)
    proven = validate_generate.run(context, checked, checkpoint, engine, repository, candidate)
    return promote_release.run(context, proven, params)


def make(context: Context, job: StageJob, log: list[str]) -> ArtifactRef:
    """The artifact of a stage, as `StageOperator` makes it."""
    with context.store.claim(job.kind, job.inputs, log=log.append) as claim:
        ProcessRunner(context.target, log.append).run(job, claim)
    return ArtifactRef(kind=job.kind, name=claim.name, reused=claim.hit)


def test_the_model_goes_live_and_answers(outcome: Outcome) -> None:
    assert outcome.live.new
    assert outcome.answer


def test_it_is_signed_and_has_a_bill_of_materials(outcome: Outcome, context: Context) -> None:
    release = context.releases.live()
    assert context.signatures.verify(context.store.root / "repositories" / release.repository)
    found = report.read(context.releases.path(release))
    assert found.supply.signed
    sbom = json.loads((context.releases.path(release) / found.supply.sbom).read_text())
    names = {one["name"] for one in sbom["components"]}
    assert {"torch", "openvino", "apache-airflow", found.subject.source.rpartition("@")[0]} <= names


def test_nothing_tried_to_reach_anything(outcome: Outcome) -> None:
    """No telemetry, no look-up: where packets are dropped in silence, each would cost its time-out."""
    assert outcome.attempts == 0, "`strace -f -e trace=connect,execve` shows which program it was"


def test_the_calibration_was_on_the_file(outcome: Outcome, context: Context) -> None:
    (checkpoint,) = (context.settings.artifacts / "checkpoints").glob("*/manifest.json")
    assert '"calibration_data": "builtin"' not in checkpoint.read_text()
