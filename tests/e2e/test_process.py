"""The demo's path end to end: real Airflow, real AWQ, a real engine, a real Triton, on runner ``process``.

The tests of this module tell one story and run in their order.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
from rich.console import Console

from include.artifacts.store import Artifact, ArtifactStore
from include.demo import run
from include.demo.api import AirflowApi
from include.errors import ToolError, UserError
from include.files import sha256_of
from include.gates import gates_for
from include.host.services import ServiceRecord, read
from include.releases.records import ReleaseStore
from include.requests.release import ReleaseRequest
from include.triton import servers
from tests.e2e import faults
from tests.e2e.conftest import CHAIN, MODEL, Deployment, copy_artifacts
from tests.e2e.outage import comes_back
from tests.e2e.rest import AnyPath
from tests.e2e.swap import SLUG, Scene, release_and_roll_back
from tests.support.live import live_record

pytestmark = pytest.mark.story

MAKERS = ["pull_model", "calibrate_awq", "build_engine", "assemble_repository"]


@pytest.fixture(scope="module")
def more_settings(catalogue: Path) -> dict[str, str]:
    return {"HF2TRITON_CATALOGUE": str(catalogue)}


@pytest.fixture(scope="module")
def first(deployment: Deployment) -> str:
    done = deployment.demo("run", "--model", str(MODEL))
    assert done.returncode == 0, done.stdout
    shutil.rmtree(CHAIN, ignore_errors=True)
    copy_artifacts(deployment.settings.artifacts, CHAIN)
    return done.stdout


@pytest.fixture
def store(deployment: Deployment) -> ArtifactStore:
    return ArtifactStore(deployment.settings.artifacts)


@pytest.fixture
def live(deployment: Deployment) -> str:
    return f"http://127.0.0.1:{deployment.settings.live_http_port}"


def only(store: ArtifactStore, kind: str) -> Artifact:
    (artifact,) = store.all(kind)
    return artifact


def snapshot(root: Path) -> dict[str, int]:
    """Every artifact and release by path, with its time of change."""
    kinds = ("models", "checkpoints", "engines", "repositories", "releases")
    return {str(p): p.lstat().st_mtime_ns for kind in kinds for p in (root / kind).rglob("*")}


def test_every_stage_ends_well_and_the_demo_shows_it(first: str) -> None:
    for stage in run.STAGES:
        assert re.search(rf"{stage}\s+success", first), stage
    assert "curl -s http://127.0.0.1:" in first
    assert "password" in first


def test_the_live_endpoint_answers_the_seed_request(first: str, live: str) -> None:
    answer = httpx.post(f"{live}/v2/models/ensemble/generate", json=run.SEED_REQUEST, timeout=120).json()["text_output"]
    assert "French" in answer
    assert answer.split()[0] in first


@pytest.mark.parametrize("kind", ["models", "checkpoints", "engines", "repositories"])
def test_each_artifact_is_what_its_manifest_says(first: str, store: ArtifactStore, kind: str) -> None:
    artifact = only(store, kind)
    assert artifact.manifest.outputs
    for output in artifact.manifest.outputs:
        assert sha256_of(artifact.path / output.path) == output.sha256, output.path
    assert [p.name for p in artifact.path.parent.iterdir()] == [artifact.name]


def test_the_chain_of_manifests_leads_from_the_release_to_the_model(first: str, store: ArtifactStore) -> None:
    release = ReleaseStore(store.root / "releases").current(SLUG)
    repository = store.get("repositories", release.repository)
    engine = store.get("engines", repository.manifest.inputs["engine"])
    checkpoint = store.get("checkpoints", engine.manifest.inputs["checkpoint"])
    assert checkpoint.manifest.inputs["model"]["content"] == only(store, "models").content
    assert checkpoint.name == release.chain["checkpoints"]


def test_the_checkpoint_is_int4_awq_for_tensorrt_llm(first: str, store: ArtifactStore) -> None:
    config = json.loads((only(store, "checkpoints").path / "config.json").read_text())
    assert config["quantization"]["quant_algo"] == "W4A16_AWQ"
    assert config["quantization"]["group_size"] == 64
    assert config["rotary_base"] == 100000


def test_quality_and_the_engines_faithfulness_are_on_record(first: str, store: ArtifactStore) -> None:
    quality = json.loads((only(store, "checkpoints").path / "reference.json").read_text())["quality"]
    assert 10 < quality["before"] < quality["after"] < 1.35 * quality["before"]
    proof = json.loads((only(store, "engines").path / "config.json").read_text())["proof"]
    assert proof["engine_perplexity"] == pytest.approx(proof["torch_perplexity"], rel=0.005)


def test_the_report_of_the_release_has_every_gate(first: str, store: ArtifactStore) -> None:
    path = store.root / "releases" / SLUG / "current"
    report = json.loads((path / "report.json").read_text())
    outcomes = {verdict["gate"]: verdict["outcome"] for verdict in report["verdicts"]}
    assert outcomes == {gate.name: "pass" for gate in gates_for(ReleaseRequest())}
    assert "agreement" in (path / "report.html").read_text()


@pytest.mark.parametrize("fault", faults.FAULTS)
def test_server_that_is_ready_but_wrong_does_not_agree(
    first: str, store: ArtifactStore, tmp_path: Path, fault: str
) -> None:
    checkpoint, engine, repository = (only(store, kind) for kind in ("checkpoints", "engines", "repositories"))
    planted = faults.plant(fault, checkpoint, engine, repository, tmp_path)
    report = faults.judge(planted, checkpoint, tmp_path)
    failed = [verdict.gate for verdict in report.verdicts if verdict.outcome == "fail"]
    assert failed == ["agreement"], report.to_markdown()


def test_only_the_live_server_is_left(first: str, deployment: Deployment) -> None:
    records = (deployment.settings.artifacts / "servers").glob("*-*.json")
    assert list(records) == [live_record(deployment.settings.artifacts)]


def test_a_second_run_reuses_everything(first: str, deployment: Deployment, store: ArtifactStore) -> None:
    made = {kind: only(store, kind).manifest.created_at for kind in ("checkpoints", "engines", "repositories")}
    live_before = servers.find(live_record(store.root))
    done = deployment.demo("run", "--model", str(MODEL))
    assert done.returncode == 0, done.stdout
    assert f"reused from the artifact store: {', '.join(MAKERS)}" in done.stdout
    assert {kind: only(store, kind).manifest.created_at for kind in made} == made
    assert servers.find(live_record(store.root)).pid == live_before.pid
    assert [r.number for r in ReleaseStore(store.root / "releases").all(SLUG)] == [1]


@pytest.fixture
def api(first: str, deployment: Deployment) -> AnyPath:
    return deployment.api()


def test_releases_and_rollbacks_of_three_models_lose_no_request(
    api: AnyPath, deployment: Deployment, catalogue: Path, tiny_model: Path
) -> None:
    release_and_roll_back(Scene(api, deployment, catalogue, tiny_model))


def test_a_killed_live_server_and_a_killed_proxy_come_back_by_themselves(
    api: AnyPath, store: ArtifactStore, live: str
) -> None:
    releases, endpoint = ReleaseStore(store.root / "releases"), f"{live}/v2/models/ensemble/generate"
    for name in (live_record(store.root).name, "proxy.json"):
        record = read(store.root / "servers" / name, ServiceRecord)
        comes_back(api, releases, endpoint, partial(os.kill, record.pid, signal.SIGKILL))
        assert read(store.root / "servers" / name, ServiceRecord).pid != record.pid


REFUSED_AT_THE_TRIGGER: list[tuple[str, dict[str, Any]]] = [
    ("model", {"model": "org/name;id"}),
    ("model", {"model": "https://huggingface.co/org/name"}),
    ("model", {"model": "org/../name"}),
    ("kv_cache_memory_fraction", {"kv_cache_memory_fraction": 3}),
]
REFUSED_BY_THE_FIRST_TASK: list[tuple[str, dict[str, Any]]] = [
    ("awq_group_size", {"awq_group_size": 128}),
    ("max_seq_len", {"max_seq_len": 100000}),
    ("max_input_len", {"max_input_len": 2048}),
    ("target", {"target": "tensorrt_llm", "awq_group_size": 128}),
]


@pytest.mark.parametrize(("field", "conf"), REFUSED_AT_THE_TRIGGER, ids=lambda v: v if isinstance(v, str) else "")
def test_rest_refuses_what_the_form_refuses(api: AirflowApi, field: str, conf: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=field):
        api.trigger(run.DAG, conf)


@pytest.mark.parametrize(("field", "conf"), REFUSED_BY_THE_FIRST_TASK, ids=lambda v: v if isinstance(v, str) else "")
def test_a_request_that_cannot_be_met_ends_at_once_and_changes_nothing(
    api: AirflowApi, store: ArtifactStore, live: str, field: str, conf: dict[str, Any]
) -> None:
    before = snapshot(store.root)
    with pytest.raises(ToolError, match=rf"check_request failed: (.|\n)*{field}"):
        run.release(api, {"model": str(MODEL), "awq_group_size": 64, **conf}, Console())
    assert snapshot(store.root) == before
    assert httpx.get(f"{live}/v2/health/ready", timeout=10).status_code == httpx.codes.OK


def test_down_stops_all_of_it(first: str, deployment: Deployment, live: str) -> None:
    assert deployment.processes()
    done = deployment.demo("down")
    assert done.returncode == 0
    assert deployment.processes() == []
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{live}/v2/health/live", timeout=5)
    assert ArtifactStore(deployment.settings.artifacts).all("engines")
