"""The whole DAG with every stage and every server in a container, on a real Docker engine, and what its containers
survive when Airflow's own processes do not.

The tests of this module tell one story and run in their order.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from include.artifacts.store import ArtifactStore
from include.demo import run
from include.demo.__main__ import DEMO
from include.releases.records import ReleaseStore
from include.runners.container_job import LABEL_PARTIAL, LABEL_STORE
from include.triton import servers
from tests.e2e.conftest import MODEL, Deployment
from tests.e2e.outage import comes_back
from tests.e2e.rest import AnyPath
from tests.e2e.stack import TINY
from tests.e2e.swap import Scene, release_and_roll_back
from tests.support import wait as waiting
from tests.support.engine import client_with_image_or_skip, frozen
from tests.support.live import live_record

pytestmark = [pytest.mark.docker, pytest.mark.story]

WAIT_S = 900
CALIBRATE = "calibrate_awq"


@pytest.fixture(scope="module")
def more_settings(catalogue: Path) -> dict[str, str]:
    return {
        "HF2TRITON_CATALOGUE": str(catalogue),
        "HF2TRITON_RUNNER": "docker",
        # Nothing may be taken from the local environment.
        "HF2TRITON_OPENVINO_PYTHON": "/nonexistent/python",
        # A worker that is gone is missed after seconds instead of minutes.
        "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_SEC": "2",
        "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": "20",
        "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT_DETECTION_INTERVAL": "5",
    }


@pytest.fixture(scope="module")
def engine() -> Any:
    return client_with_image_or_skip()


@pytest.fixture(scope="module")
def first(deployment: Deployment, engine: Any) -> str:
    done = deployment.demo("run", "--model", str(MODEL))
    assert done.returncode == 0, done.stdout
    return done.stdout


@pytest.fixture(scope="module")
def api(first: str, deployment: Deployment) -> AnyPath:
    return deployment.api()


@pytest.fixture(scope="module")
def store(deployment: Deployment) -> ArtifactStore:
    return ArtifactStore(deployment.settings.artifacts)


@pytest.fixture(scope="module")
def stages(engine: Any, store: ArtifactStore) -> Callable[[], list[str]]:
    """Ids of the containers that this deployment's stages have, whatever their state."""

    def list_them() -> list[str]:
        labels = [f"{LABEL_STORE}={store.root}", LABEL_PARTIAL]
        return [summary["Id"] for summary in engine.containers(all=True, filters={"label": labels})]

    return list_them


wait_for = partial(waiting.wait_for, within_s=WAIT_S, every_s=0.2)


def log_of(api: AnyPath, run_id: str, task: str, attempt: int) -> str:
    path = f"/api/v2/dags/{run.DAG}/dagRuns/{run_id}/taskInstances/{task}/logs/{attempt}"
    return "\n".join(str(event.get("event")) for event in api.get(path)["content"])


def partials(store: ArtifactStore) -> list[str]:
    return [path.name for path in store.root.glob("*/*.partial-*")]


def test_every_stage_and_the_server_run_in_containers(first: str, engine: Any, deployment: Deployment) -> None:
    for stage in run.STAGES:
        assert re.search(rf"{stage}\s+success", first), stage
    assert not [p for p in psutil.process_iter(["cmdline"]) if _is_triton_of(deployment, p)]
    answer = run.ask(f"http://127.0.0.1:{deployment.settings.live_http_port}/v2/models/ensemble/generate")
    assert "French" in answer


def test_releases_and_rollbacks_of_three_models_lose_no_request(
    api: AnyPath, deployment: Deployment, catalogue: Path, tiny_model: Path
) -> None:
    release_and_roll_back(Scene(api, deployment, catalogue, tiny_model))


def test_a_live_server_whose_container_is_killed_comes_back_by_itself(
    api: AnyPath, engine: Any, deployment: Deployment, store: ArtifactStore
) -> None:
    """The engine starts it again if its program is killed, but not if the container is: that the supervisor does."""
    endpoint = f"http://127.0.0.1:{deployment.settings.live_http_port}/v2/models/ensemble/generate"
    releases = ReleaseStore(store.root / "releases")
    container = servers.find(live_record(store.root)).container_id
    program = engine.inspect_container(container)["State"]["Pid"]
    cause = comes_back(api, releases, endpoint, psutil.Process(program).kill)
    assert "it was killed" in cause
    container = servers.find(live_record(store.root)).container_id
    cause = comes_back(api, releases, endpoint, partial(engine.kill, container))
    assert "it was killed" in cause
    assert servers.find(live_record(store.root)).container_id != container


def test_a_stage_had_no_network_and_no_rights(
    api: AnyPath, engine: Any, store: ArtifactStore, stages: Callable[[], list[str]]
) -> None:
    """Of a calibration that is then cancelled: its container and its half-made artifact go with it."""
    run_id = api.trigger(run.DAG, {**DEMO, "model": str(MODEL), "calib_size": 30})
    (container,) = wait_for(stages, "the container")
    inspected = engine.inspect_container(container)
    assert inspected["HostConfig"]["NetworkMode"] == "none"
    assert inspected["HostConfig"]["CapDrop"] == ["ALL"]
    assert inspected["HostConfig"]["SecurityOpt"] == ["no-new-privileges"]
    assert inspected["Config"]["User"] not in {"", "0", "root", "0:0"}
    assert {m["Destination"] for m in inspected["Mounts"] if m["RW"]} == {inspected["Config"]["Labels"][LABEL_PARTIAL]}
    api.patch(f"/api/v2/dags/{run.DAG}/dagRuns/{run_id}", {"state": "failed"})
    wait_for(lambda: not stages(), "the container's end")
    wait_for(lambda: not partials(store), "the end of the partial directory")


def test_a_killed_worker_s_container_is_taken_over(
    api: AnyPath, engine: Any, store: ArtifactStore, stages: Callable[[], list[str]], tiny_model: Path
) -> None:
    run_id = api.trigger(run.DAG, {**TINY, "target": "openvino", "model": str(tiny_model), "calib_size": 31})
    (container,) = wait_for(stages, "the container")
    with frozen(engine, container):  # else it ends before it is missed
        wait_for(lambda: api.tasks(run.DAG, run_id)[CALIBRATE].state == "running", "Airflow's word for it")
        worker = psutil.Process(api.get(f"/api/v2/dags/{run.DAG}/dagRuns/{run_id}/taskInstances/{CALIBRATE}")["pid"])
        supervisor = worker.parent()
        supervisor.kill()
        worker.kill()
        wait_for(lambda: api.tasks(run.DAG, run_id)[CALIBRATE].try_number == 2, "the second attempt")
        taken_over = f"container {container[:12]} of attempt 1 is paused"
        wait_for(lambda: taken_over in log_of(api, run_id, CALIBRATE, 2), "the second attempt's take-over")
    ended = wait_for(lambda: (s := api.tasks(run.DAG, run_id)[CALIBRATE].state) in run.ENDED and s, "its end")
    assert ended == "success"
    assert "search done in" in log_of(api, run_id, CALIBRATE, 2)
    wait_for(lambda: api.run_state(run.DAG, run_id) in {"success", "failed"}, "the run's end")
    assert api.run_state(run.DAG, run_id) == "success"
    assert stages() == []
    assert partials(store) == []


def test_down_leaves_no_container(first: str, engine: Any, deployment: Deployment, store: ArtifactStore) -> None:
    assert deployment.demo("down").returncode == 0
    mounting = [
        summary["Id"]
        for summary in engine.containers(all=True)
        if any(str(store.root) in mount.get("Source", "") for mount in summary["Mounts"])
    ]
    assert mounting == []
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"http://127.0.0.1:{deployment.settings.live_http_port}/v2/health/live", timeout=5)


def _is_triton_of(deployment: Deployment, process: psutil.Process) -> bool:
    """A server of the deployment that is not in a container."""
    command = " ".join(process.info["cmdline"] or [])
    ours = "tritonserver" in command and str(deployment.settings.artifacts) in command
    return ours and "docker" not in Path(f"/proc/{process.pid}/cgroup").read_text()
