"""docker-compose.yaml, started with `make up` from a clean copy of the project: the whole DAG, what it survives,
and a queue of runs for one GPU slot.

PostgreSQL and Redis are stand-ins made of Debian's packages (tests/e2e/images). The tests of this module tell one story
and run in their order; they print how long queueing and recovery took.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from include.demo import run
from include.demo.api import AirflowApi
from include.deploy.init import read_env
from include.processes import free_ports
from include.runners.container_job import LABEL_PARTIAL, LABEL_STORE
from include.settings import PROJECT
from include.store import ArtifactStore
from tests.e2e.conftest import MODEL
from tests.engine import client_or_skip

WAIT_S = 900
CALIBRATE, BUILD = "calibrate_awq", "build_engine"
TINY = {"target": "openvino", "awq_group_size": 64, "calib_seq_len": 64}
CERTIFICATES = Path("/usr/local/share/ca-certificates")


@dataclass(frozen=True)
class Stack:
    """A copy of the project with the environment that its `make up` was called with."""

    tree: Path
    env: dict[str, str]

    def call(self, *command: str) -> str:
        """Runs a command in the copy; its errors are shown as they come."""
        done = subprocess.run(command, cwd=self.tree, env=self.env, text=True, stdout=subprocess.PIPE, check=True)
        return done.stdout

    def compose(self, *words: str) -> str:
        return self.call("docker", "compose", *words)

    def container(self, service: str) -> str:
        return self.compose("ps", "--all", "--quiet", service).strip()

    @cached_property
    def variables(self) -> dict[str, str]:
        return read_env(self.tree / ".env")

    @cached_property
    def api(self) -> AirflowApi:
        url = f"http://127.0.0.1:{self.env['HF2TRITON_AIRFLOW_PORT']}"
        return AirflowApi(url, "admin", self.variables["HF2TRITON_ADMIN_PASSWORD"])

    @property
    def store(self) -> ArtifactStore:
        return ArtifactStore(Path(self.env["HF2TRITON_DATA"]) / "artifacts")

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.env['HF2TRITON_LIVE_HTTP_PORT']}/v2/models/ensemble/generate"

    def conf(self, calib_size: int) -> dict[str, Any]:
        """A request whose checkpoint no other ``calib_size`` has."""
        return {**TINY, "model": f"{self.env['HF2TRITON_DATA']}/models/{MODEL.name}", "calib_size": calib_size}


@pytest.fixture(scope="module")
def engine() -> Any:
    return client_or_skip()


@pytest.fixture(scope="module")
def stack(engine: Any) -> Iterator[Stack]:
    # Short: a unix socket's path has 107 bytes, and there is one in the store.
    home = Path(tempfile.mkdtemp(prefix="hf2triton-"))
    made = Stack(_clean_copy(home / "tree"), _environment(home))
    shutil.copytree(MODEL, home / "data" / "models" / MODEL.name)
    try:
        since = time.monotonic()
        made.call("make", "up")
        print(f"make up: {time.monotonic() - since:.0f} s")
        yield made
    finally:
        _remove(made, engine)
        shutil.rmtree(home)


@pytest.fixture(scope="module")
def stages(stack: Stack, engine: Any) -> Callable[[], list[str]]:
    """Ids of the stage containers that run."""
    labels = [f"{LABEL_STORE}={stack.store.root}", LABEL_PARTIAL]
    return lambda: [found["Id"] for found in engine.containers(filters={"label": labels})]


@pytest.fixture(scope="module")
def interrupted(stack: Stack) -> str:
    """The run that both accidents happen to."""
    return stack.api.trigger(run.DAG, stack.conf(4))


def wait_for(what: Callable[[], Any], said: str, limit_s: float = WAIT_S) -> Any:
    since = time.monotonic()
    found = None
    while not found:
        assert time.monotonic() - since < limit_s, f"waited {limit_s} s for {said}"
        time.sleep(1)
        with suppress(httpx.TimeoutException):  # a busy machine: asked again
            found = what()
    print(f"{said}: after {time.monotonic() - since:.0f} s", flush=True)
    return found


def instances(stack: Stack, run_id: str = "~", **query: str) -> list[dict[str, Any]]:
    words = "&".join(f"{name}={value}" for name, value in {"limit": "200", **query}.items())
    found = stack.api.get(f"/api/v2/dags/{run.DAG}/dagRuns/{run_id}/taskInstances?{words}")["task_instances"]
    return [instance for instance in found if instance["state"] is not None]


def ended(stack: Stack, run_id: str, task: str) -> str | None:
    state = stack.api.tasks(run.DAG, run_id)[task].state
    return state if state in run.ENDED else None


def test_it_was_started_with_secrets_of_its_own(stack: Stack) -> None:
    secrets = [value for name, value in stack.variables.items() if name.endswith(("PASSWORD", "SECRET", "KEY"))]
    assert len(secrets) == len(set(secrets)) == 6
    assert (stack.tree / ".env").stat().st_mode & 0o777 == 0o600


def test_it_does_not_start_without_them(stack: Stack) -> None:
    (stack.tree / ".env").rename(stack.tree / "away")
    try:
        done = subprocess.run(
            ["docker", "compose", "config"], cwd=stack.tree, env=stack.env, capture_output=True, text=True
        )
    finally:
        (stack.tree / "away").rename(stack.tree / ".env")
    assert done.returncode != 0
    assert "run make init" in done.stderr


def test_nothing_listens_on_other_addresses(stack: Stack, engine: Any) -> None:
    for line in stack.compose("ps", "--format", "json").splitlines():
        for published in json.loads(line)["Publishers"] or ():
            assert not published["PublishedPort"] or published["URL"] == "127.0.0.1", line
    on_the_host = stack.container("gpu-worker")
    assert engine.inspect_container(on_the_host)["HostConfig"]["NetworkMode"] == "host"
    processes = {int(words[1]) for words in engine.top(on_the_host)["Processes"]}
    assert processes
    listening = [c for c in psutil.net_connections("inet") if c.pid in processes and c.status == psutil.CONN_LISTEN]
    assert listening == []


def test_no_service_runs_as_root(stack: Stack, engine: Any) -> None:
    services = stack.compose("config", "--services").split()
    assert len(services) == 9
    for service in set(services) - {"airflow-init"}:
        users = {words[0] for words in engine.top(stack.container(service), "-eo user,pid")["Processes"]}
        assert users, service
        assert "root" not in users, service


def test_a_killed_gpu_worker_is_made_up_for(
    stack: Stack, interrupted: str, stages: Callable[[], list[str]], engine: Any
) -> None:
    (container,) = wait_for(stages, "the calibration's container")
    wait_for(lambda: stack.api.tasks(run.DAG, interrupted)[CALIBRATE].state == "running", "Airflow's word that it runs")
    worker = stack.container("gpu-worker")
    engine.kill(worker)
    assert engine.inspect_container(container)["State"]["Status"] == "running"
    engine.start(worker)
    wait_for(lambda: stack.api.tasks(run.DAG, interrupted)[CALIBRATE].try_number == 2, "the second attempt")
    assert wait_for(lambda: ended(stack, interrupted, CALIBRATE), "its end") == "success"
    path = f"/api/v2/dags/{run.DAG}/dagRuns/{interrupted}/taskInstances/{CALIBRATE}/logs/2"
    log = "\n".join(str(event.get("event")) for event in stack.api.get(path)["content"])
    assert f"container {container[:12]} of attempt 1 is" in log
    assert "started" not in log.split("of attempt 1 is")[1]


def test_a_killed_scheduler_is_made_up_for(
    stack: Stack, interrupted: str, stages: Callable[[], list[str]], engine: Any
) -> None:
    wait_for(stages, "the build's container")
    scheduler = stack.container("scheduler")
    engine.kill(scheduler)
    engine.start(scheduler)
    assert wait_for(lambda: ended(stack, interrupted, BUILD), "the build's end") == "success"
    assert stack.api.tasks(run.DAG, interrupted)[BUILD].try_number == 1


def test_the_whole_dag_ran_on_two_workers(stack: Stack, interrupted: str) -> None:
    ended_as = wait_for(
        lambda: (s := stack.api.run_state(run.DAG, interrupted)) in {"success", "failed"} and s, "the run's end"
    )
    assert ended_as == "success"
    ran = {i["task_id"]: (i["hostname"], i["queue"]) for i in instances(stack, interrupted) if i["hostname"]}
    host = platform.node()
    assert ran.pop("pull_model") == ("worker", "default")
    assert {task for task, where in ran.items() if where == (host, "gpu")} == {CALIBRATE, BUILD}
    assert {"check_request", "launch_triton", "promote_release", "stop_candidate"} <= {
        task for task, where in ran.items() if where == (host, "serve")
    }
    assert {i["task_id"] for i in instances(stack, interrupted, pool="gpu")} >= {CALIBRATE, BUILD}
    assert "French" in run.ask(stack.endpoint)


def test_what_it_made_belongs_to_its_user(stack: Stack) -> None:
    uid = int(stack.variables["HF2TRITON_UID"])
    assert uid != 0
    assert {path.lstat().st_uid for path in stack.store.root.rglob("*")} == {uid}


def test_a_queue_of_runs_shares_one_gpu_slot(stack: Stack, stages: Callable[[], list[str]]) -> None:
    before = {kind: len(stack.store.all(kind)) for kind in ("checkpoints", "engines")}
    runs = [stack.api.trigger(run.DAG, stack.conf(calib_size)) for calib_size in (5, 6) * 4]
    seen = []

    def all_ended() -> bool:
        seen.append((len(stages()), len(instances(stack, pool="gpu", state="running"))))
        return all(stack.api.run_state(run.DAG, run_id) in {"success", "failed"} for run_id in runs)

    wait_for(all_ended, f"the end of {len(runs)} runs", 2 * WAIT_S)
    assert [stack.api.run_state(run.DAG, run_id) for run_id in runs] == ["success"] * len(runs)
    assert {max(containers for containers, _ in seen), max(tasks for _, tasks in seen)} == {1}
    after = {kind: len(stack.store.all(kind)) for kind in before}
    assert {kind: after[kind] - before[kind] for kind in before} == {"checkpoints": 2, "engines": 2}
    made = [run_id for run_id in runs if not stack.api.result(run.DAG, run_id, CALIBRATE)["reused"]]
    assert len(made) == 2


def test_down_and_up_again_keeps_the_runs(stack: Stack, interrupted: str) -> None:
    stack.call("make", "compose-down")
    assert stack.compose("ps", "--all", "--quiet").split() == []
    assert run.ask(stack.endpoint), "the release stays live"
    stack.call("make", "up")
    assert stack.api.run_state(run.DAG, interrupted) == "success"


def _clean_copy(tree: Path) -> Path:
    """The files that git has or would take."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=PROJECT,
        text=True,
        capture_output=True,
        check=True,
    )
    for name in filter(None, listed.stdout.split("\0")):
        if (PROJECT / name).is_file():
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(PROJECT / name, tree / name)
    return tree


def _environment(home: Path) -> dict[str, str]:
    extra = home / "build" / "extra" / "ca-certificates"
    extra.mkdir(parents=True)
    for certificate in CERTIFICATES.glob("*.crt"):
        shutil.copy(certificate, extra)
    web, redis, http, grpc, metrics = (str(port) for port in free_ports(5))
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("AIRFLOW", "HF2TRITON", "PYTHON"))}
    return {
        **clean,
        "COMPOSE_PROJECT_NAME": home.name,
        "COMPOSE_FILE": "docker-compose.yaml:tests/e2e/compose.yaml",
        "BUILD_EXTRA": str(home / "build"),
        "HF2TRITON_AIRFLOW_IMAGE": "hf2triton/airflow:e2e",
        "HF2TRITON_POSTGRES_IMAGE": "hf2triton/e2e-postgres",
        "HF2TRITON_REDIS_IMAGE": "hf2triton/e2e-redis",
        "HF2TRITON_DATA": str(home / "data"),
        "HF2TRITON_GPU_LEASE_DIR": str(home / "leases"),
        "HF2TRITON_AIRFLOW_PORT": web,
        "HF2TRITON_REDIS_PORT": redis,
        "HF2TRITON_LIVE_HTTP_PORT": http,
        "HF2TRITON_LIVE_GRPC_PORT": grpc,
        "HF2TRITON_LIVE_METRICS_PORT": metrics,
        "HF2TRITON_WORKER_CONCURRENCY": "2",
        "HF2TRITON_GPU_WORKER_CONCURRENCY": "3",
    }


def _remove(stack: Stack, engine: Any) -> None:
    """The services with their volumes, then every container that has the store mounted."""
    subprocess.run(["docker", "compose", "down", "--volumes", "--timeout", "5"], cwd=stack.tree, env=stack.env)
    for found in engine.containers(all=True):
        if any(str(stack.store.root) in mount.get("Source", "") for mount in found["Mounts"]):
            engine.remove_container(found["Id"], force=True, v=True)
