"""docker-compose.yaml, started with `make up` from a clean copy of the project: the whole DAG by REST and by schedule,
what it survives, a queue of runs for one GPU slot, and its metrics.

PostgreSQL, Redis and Prometheus are stand-ins made of Debian's packages (tests/e2e/images), the model is a tiny random
one, which passes all gates like any other. The tests of this module tell one story and run in their order; they print
how long queueing and recovery took.
"""

from __future__ import annotations

import json
import platform
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import datetime
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import httpx
import psutil
import pytest
from playwright.sync_api import Browser, expect

from hf2triton.form import OPEN_SECTION
from include.demo import run
from include.live.proxy.envoy import LABEL_PROXY
from include.releases.records import ReleaseStore
from include.settings import PROJECT
from include.triton import servers
from tests.e2e import test_browser as web
from tests.e2e.outage import comes_back
from tests.e2e.stack import AIRFLOW_IMAGE, TINY, Stack, replacing, stack_in
from tests.support import wait as waiting
from tests.support.chromium import log_in
from tests.support.engine import client_or_skip, frozen
from tests.support.live import live_record

pytestmark = [pytest.mark.docker, pytest.mark.story]

WAIT_S = 900
MEASURE, CALIBRATE, BUILD = "measure_original", "calibrate_awq", "build_engine"
CHECK = "rebuild_on_change"
FORM = {
    OPEN_SECTION: ["model"],
    "Quantization": ["calib_size", "calib_seq_len"],
    "Gates": ["max_perplexity_decrease", "min_speed_ratio"],
}
METRICS = (PROJECT / "docs" / "deploy.md").read_text().split("## Metrics")[1]
# The stand-in has no receiver for what Airflow sends.
QUERIES = re.findall(r"^\| `(.*nv_.+?)` \|", METRICS, re.MULTILINE)
ALERTS = set(re.findall(r"- alert: (\w+)", (PROJECT / "include" / "deploy" / "monitoring" / "alerts.yaml").read_text()))


browser = web.browser  # the fixture


@pytest.fixture(scope="module")
def engine() -> Any:
    return client_or_skip()


@pytest.fixture(scope="module")
def stack(engine: Any) -> Iterator[Stack]:
    # Short: a unix socket's path has 107 bytes, and there is one in the store.
    home = Path(tempfile.mkdtemp(prefix="hf2triton-"))
    made = stack_in(home)
    made.save_model()
    try:
        timed("make images", lambda: replacing(engine, AIRFLOW_IMAGE, lambda: made.call("make", "images")))
        timed("make up", lambda: made.call("make", "up"))
        yield made
    finally:
        made.remove(engine)
        shutil.rmtree(home)


@pytest.fixture(scope="module")
def interrupted(stack: Stack) -> str:
    """The run that both accidents happen to."""
    return stack.api.trigger(run.DAG, conf(stack, 4))


@pytest.fixture(scope="module")
def followed(stack: Stack) -> str:
    """The prefix of the ids of the runs that an entry of the catalogue starts.

    It asks for what the interrupted run has made, of a copy: the model itself is busy with the queue's runs.
    """
    model = shutil.copytree(stack.model, stack.model.with_name("followed"))
    settings = {name: value for name, value in conf(stack, 4).items() if name not in {"model", "target"}}
    entry = {"name": "followed", "model": str(model), "target": "openvino", "schedule": "* * * * *"}
    (stack.data / "catalogue" / "followed.yaml").write_text(json.dumps([{**entry, "settings": settings}]))
    stack.api.patch(f"/api/v2/dags/{CHECK}", {"is_paused": False})
    return "rebuild__followed__"


def conf(stack: Stack, calib_size: int) -> dict[str, Any]:
    """A request whose checkpoint no other ``calib_size`` has."""
    return {**TINY, "target": "openvino", "model": str(stack.model), "calib_size": calib_size}


def timed(said: str, do: Callable[[], Any]) -> Any:
    since = time.monotonic()
    found = do()
    print(f"{said}: {time.monotonic() - since:.0f} s", flush=True)
    return found


def wait_for(what: Callable[[], Any], said: str) -> Any:
    def look() -> Any:
        with suppress(httpx.TimeoutException):  # a busy machine: asked again
            return what()

    return timed(said, lambda: waiting.wait_for(look, said, within_s=WAIT_S, every_s=1))


def instances(stack: Stack, run_id: str = "~", **query: str) -> list[dict[str, Any]]:
    words = "&".join(f"{name}={value}" for name, value in {"limit": "200", **query}.items())
    found = stack.api.get(f"/api/v2/dags/{run.DAG}/dagRuns/{run_id}/taskInstances?{words}")["task_instances"]
    return [instance for instance in found if instance["state"] is not None]


def runs_of(stack: Stack, dag: str, **query: str) -> list[dict[str, Any]]:
    words = "&".join(f"{name}={value}" for name, value in {"limit": "100", **query}.items())
    return list(stack.api.get(f"/api/v2/dags/{dag}/dagRuns?{words}")["dag_runs"])


def ended(stack: Stack, run_id: str, task: str) -> str | None:
    state = stack.api.tasks(run.DAG, run_id)[task].state
    return state if state in run.ENDED else None


def errors(stack: Stack, run_id: str) -> list[str]:
    failed = [state for state in stack.api.tasks(run.DAG, run_id).values() if state.state == "failed"]
    return [f"{run_id}: {state.task}: {stack.api.error(run.DAG, run_id, state)}" for state in failed]


def heartbeat(stack: Stack) -> str | None:
    """The scheduler's last one."""
    health: dict[str, str | None] = stack.api.get("/api/v2/monitor/health")["scheduler"]
    return health["latest_scheduler_heartbeat"]


def listening(engine: Any, container: str) -> set[str]:
    """The addresses that a container's processes listen on."""
    processes = {int(words[1]) for words in engine.top(container)["Processes"]}
    assert processes
    connections = psutil.net_connections("inet")
    return {c.laddr.ip for c in connections if c.pid in processes and c.status == psutil.CONN_LISTEN}


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
    for service, addresses in {"gpu-worker": set(), "supervisor": set(), "gpu-metrics": {"127.0.0.1"}}.items():
        on_the_host = stack.container(service)
        assert engine.inspect_container(on_the_host)["HostConfig"]["NetworkMode"] == "host"
        assert listening(engine, on_the_host) == addresses


def test_no_service_runs_as_root(stack: Stack, engine: Any) -> None:
    services = stack.compose("config", "--services").split()
    assert len(services) == 13
    for service in set(services) - {"airflow-init"}:
        users = {words[0] for words in engine.top(stack.container(service), "-eo user,pid")["Processes"]}
        assert users, service
        assert "root" not in users, service


def test_a_killed_gpu_worker_is_made_up_for(stack: Stack, interrupted: str, engine: Any) -> None:
    (container,) = wait_for(lambda: stack.stages(engine, CALIBRATE), "from the trigger to the calibration's container")
    with frozen(engine, container):
        wait_for(lambda: stack.api.tasks(run.DAG, interrupted)[CALIBRATE].state == "running", "Airflow's word for it")
        worker = stack.container("gpu-worker")
        engine.kill(worker)
        engine.start(worker)
        taken_over = f"container {container[:12]} of attempt 1 is paused"
        wait_for(lambda: taken_over in stack.log(run.DAG, interrupted, CALIBRATE, 2), "the second attempt's take-over")
    assert wait_for(lambda: ended(stack, interrupted, CALIBRATE), "its end") == "success"
    assert stack.api.tasks(run.DAG, interrupted)[CALIBRATE].try_number == 2
    assert f"{container[:12]} started" in stack.log(run.DAG, interrupted, CALIBRATE, 1)
    assert " started" not in stack.log(run.DAG, interrupted, CALIBRATE, 2).split(taken_over)[1]


def test_a_killed_scheduler_is_made_up_for(stack: Stack, interrupted: str, engine: Any) -> None:
    (container,) = wait_for(lambda: stack.stages(engine, BUILD), "the build's container")
    with frozen(engine, container):
        scheduler = stack.container("scheduler")
        engine.kill(scheduler)
        last = heartbeat(stack)
        engine.start(scheduler)
        wait_for(lambda: heartbeat(stack) != last, "the new scheduler's first heartbeat")
    assert wait_for(lambda: ended(stack, interrupted, BUILD), "the build's end") == "success"
    assert stack.api.tasks(run.DAG, interrupted)[BUILD].try_number == 1


def test_the_whole_dag_ran_on_two_workers(stack: Stack, interrupted: str) -> None:
    states = {"success", "failed"}
    ended_as = wait_for(lambda: (s := stack.api.run_state(run.DAG, interrupted)) in states and s, "the run's end")
    assert ended_as == "success", errors(stack, interrupted)
    ran = {i["task_id"]: (i["hostname"], i["queue"]) for i in instances(stack, interrupted) if i["hostname"]}
    host = platform.node()
    assert ran.pop("pull_model") == ("worker", "default")
    assert {task for task, where in ran.items() if where == (host, "gpu")} == {MEASURE, CALIBRATE, BUILD}
    assert {"check_request", "launch_triton", "promote_release", "stop_candidate"} <= {
        task for task, where in ran.items() if where == (host, "serve")
    }
    assert {i["task_id"] for i in instances(stack, interrupted, pool="gpu")} >= {CALIBRATE, BUILD}
    assert run.ask(stack.endpoint)


def test_a_killed_live_server_and_a_killed_proxy_come_back_by_themselves(
    stack: Stack, interrupted: str, engine: Any
) -> None:
    """By the service that supervises: the engine leaves a container alone that was killed through it."""
    releases, store = ReleaseStore(stack.store.root / "releases"), stack.store.root
    (proxy,) = engine.containers(filters={"label": f"{LABEL_PROXY}={store}/servers/proxy"})
    for container in (servers.find(live_record(store)).container_id, proxy["Id"]):
        comes_back(stack.api, releases, stack.endpoint, partial(engine.kill, container))


def test_what_it_made_belongs_to_its_user(stack: Stack) -> None:
    uid = int(stack.variables["HF2TRITON_UID"])
    assert uid != 0
    assert {path.lstat().st_uid for path in stack.store.root.rglob("*")} == {uid}


def test_a_queue_of_runs_shares_one_gpu_slot(stack: Stack, interrupted: str, followed: str, engine: Any) -> None:
    before = {kind: len(stack.store.all(kind)) for kind in ("checkpoints", "engines")}
    runs = [stack.api.trigger(run.DAG, conf(stack, calib_size)) for calib_size in (5, 6) * 2]
    seen = []

    def all_ended() -> bool:
        seen.append((len(stack.stages(engine)), len(instances(stack, pool="gpu", state="running"))))
        unfinished = [one for state in ("queued", "running") for one in runs_of(stack, run.DAG, state=state)]
        return not {one["dag_run_id"] for one in unfinished} & set(runs)

    wait_for(all_ended, f"the end of {len(runs)} runs")
    tell_waits(stack, runs)
    assert {error for run_id in runs for error in errors(stack, run_id)} == set()
    assert [stack.api.run_state(run.DAG, run_id) for run_id in runs] == ["success"] * len(runs)
    assert {max(containers for containers, _ in seen), max(tasks for _, tasks in seen)} == {1}
    after = {kind: len(stack.store.all(kind)) for kind in before}
    assert {kind: after[kind] - before[kind] for kind in before} == {"checkpoints": 2, "engines": 2}
    made = [run_id for run_id in runs if not stack.api.result(run.DAG, run_id, CALIBRATE)["reused"]]
    assert len(made) == 2


def tell_waits(stack: Stack, runs: list[str]) -> None:
    """Prints how long tasks waited from the moment that nothing but a slot or a worker was missing."""
    at = datetime.fromisoformat
    for pool in ("gpu", "default_pool"):
        found = [i for one in runs for i in instances(stack, one, pool=pool) if i["start_date"] and i["scheduled_when"]]
        waits = [(at(i["start_date"]) - at(i["scheduled_when"])).total_seconds() for i in found]
        print(f"pool {pool}: {len(waits)} tasks waited {median(waits):.1f} s (median), {max(waits):.1f} s at most")


def test_the_schedule_releases_a_followed_model(stack: Stack, followed: str) -> None:
    def released() -> list[dict[str, Any]]:
        started = [one for one in runs_of(stack, run.DAG) if one["dag_run_id"].startswith(followed)]
        return [one for one in started if one["state"] in run.ENDED]

    (found,) = wait_for(released, "the end of the run that the schedule started")
    assert found["state"] == "success", errors(stack, found["dag_run_id"])
    assert stack.api.result(run.DAG, found["dag_run_id"], CALIBRATE)["reused"]
    assert {one["run_type"] for one in runs_of(stack, CHECK)} == {"scheduled"}
    assert run.ask(stack.endpoint)


def test_the_form_in_a_browser_releases(stack: Stack, interrupted: str, browser: Browser) -> None:
    """What the interrupted run asked for, once more."""
    page = browser.new_page(base_url=stack.api.url)
    page.set_default_timeout(web.STEP_MS)
    expect.set_options(timeout=web.STEP_MS)
    log_in(page, "admin", stack.variables["HF2TRITON_ADMIN_PASSWORD"])
    form = web.open_form(page)
    for section, names in FORM.items():
        if section != OPEN_SECTION:
            web.section(form, section)
        for name in names:
            web.entry(form, name).fill(str(conf(stack, 4)[name]))
    web.trigger(form).click()
    page.wait_for_url("**/runs/**")
    run_id = page.url.split("/runs/")[1].split("/")[0]
    assert wait_for(lambda: stack.api.run_state(run.DAG, run_id) in run.ENDED, "its end")
    assert stack.api.run_state(run.DAG, run_id) == "success", errors(stack, run_id)
    assert stack.api.result(run.DAG, run_id, CALIBRATE)["reused"]


@pytest.mark.parametrize("query", QUERIES)
def test_prometheus_has_what_the_page_asks_it_for(stack: Stack, interrupted: str, query: str) -> None:
    def found() -> list[Any]:
        answer = httpx.get(f"{stack.prometheus}/api/v1/query", params={"query": query}, trust_env=False)
        return list(answer.raise_for_status().json()["data"]["result"])

    assert wait_for(found, query)


def test_prometheus_evaluates_the_alert_rules(stack: Stack, interrupted: str) -> None:
    def healthy() -> set[str]:
        answer = httpx.get(f"{stack.prometheus}/api/v1/rules", trust_env=False).raise_for_status().json()
        rules = [rule for group in answer["data"]["groups"] for rule in group["rules"]]
        return {rule["name"] for rule in rules if rule["health"] == "ok"}

    assert wait_for(lambda: healthy() == ALERTS, "the rules")


def test_down_and_up_again_keeps_the_runs(stack: Stack, interrupted: str) -> None:
    stack.call("make", "compose-down")
    assert stack.compose("ps", "--all", "--quiet").split() == []
    assert run.ask(stack.endpoint), "the release stays live"
    timed("make up again", lambda: stack.call("make", "up"))
    assert stack.api.run_state(run.DAG, interrupted) == "success"
