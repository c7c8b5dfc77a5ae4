"""Releases by REST, with the very programs of docs/rest-api.md: the official client's and curl's.

The tests of this module tell one story and run in their order, in the deployment that modules share.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest.mock import ANY

import httpx
import psutil
import pytest
from airflow_client import client as airflow

from include.context import live_records
from include.demo.airflow import DAG, USER, password, url_of
from include.demo.run import SEED_REQUEST
from include.gates import gates_for
from include.releases.records import ReleaseStore
from include.requests.release import ReleaseRequest, slug_of
from include.settings import PROJECT
from include.triton import servers
from tests.e2e.conftest import OWN, Deployment
from tests.support.engine import lacking
from tests.support.wait import wait_for

pytestmark = pytest.mark.story

MODEL = OWN / "rest"
SLUG = slug_of(str(MODEL))
TIMEOUT_S = 900
CONF = {"model": str(MODEL), "awq_group_size": 64, "calib_size": 32, "calib_seq_len": 64}
PAGE = (PROJECT / "docs" / "rest-api.md").read_text()
(PROGRAM,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
FUNCTIONS, RELEASE, *OPERATIONS = re.findall(r"```bash\n(.*?)```", PAGE, re.DOTALL)


class Client:
    """The page's Python program, and an API that it is logged in to."""

    def __init__(self, url: str, key: str) -> None:
        self._page = ModuleType("rest_api")
        exec(compile(PROGRAM, "docs/rest-api.md", "exec"), self._page.__dict__)
        self.api: airflow.ApiClient = self._page.connect(url, USER, key)

    def __getattr__(self, function: str) -> Callable[..., Any]:
        return lambda *arguments: getattr(self._page, function)(self.api, *arguments)

    def wait(self, run: str) -> str:
        return str(self._page.wait(self.api, run, within_s=TIMEOUT_S))

    def states(self, run: str) -> dict[str, str | None]:
        found = airflow.TaskInstanceApi(self.api).get_task_instances(DAG, run).task_instances
        return {task.task_id: task.state.value if task.state else None for task in found}

    def reach(self, run: str, task: str, state: str) -> None:
        """Waits until a task is in a state."""

        def reached() -> bool:
            states = self.states(run)
            assert states.get(task) == state or "failed" not in states.values(), self.errors(run)
            return states.get(task) == state

        wait_for(reached, f"{task} to be {state}", within_s=TIMEOUT_S, every_s=0.5)


@pytest.fixture(scope="module")
def deployment(shared: Deployment) -> Deployment:
    return shared


@pytest.fixture(scope="module")
def client(deployment: Deployment) -> Client:
    return Client(url_of(deployment.settings), password(deployment.settings))


@pytest.fixture(scope="module")
def first(client: Client) -> dict[str, Any]:
    """What a run returns that makes a release live."""
    client.trigger("first", CONF)
    assert client.wait("first") == "success", client.errors("first")
    return dict(client.result("first"))


@pytest.fixture
def live_answers(deployment: Deployment) -> Callable[[], bool]:
    url = f"http://127.0.0.1:{deployment.settings.live_http_port}/v2/models/ensemble/generate"
    return lambda: bool(httpx.post(url, json=SEED_REQUEST, timeout=120).raise_for_status().json()["text_output"])


@pytest.fixture
def bash(deployment: Deployment) -> Callable[..., str]:
    """Runs blocks of the page as one script."""
    if not shutil.which("jq") or not shutil.which("curl"):
        lacking("the page's commands need curl and jq")
    variables = {
        **os.environ,
        "AIRFLOW_URL": url_of(deployment.settings),
        "AIRFLOW_USER": USER,
        "AIRFLOW_PASSWORD": password(deployment.settings),
        "MODEL": str(MODEL),
    }

    def run(*blocks: str, **more: str) -> str:
        script = "set -eu\n" + "\n".join((FUNCTIONS, *blocks))
        done = subprocess.run(["bash", "-c", script], env={**variables, **more}, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    return run


def stages(deployment: Deployment) -> list[int]:
    """Ids of the stage programs that run."""
    found = []
    for process in deployment.processes():
        with suppress(psutil.NoSuchProcess):
            found += [process.pid] * any(word.startswith("include.stages") for word in process.cmdline())
    return found


def operation(word: str) -> str:
    (found,) = (block for block in OPERATIONS if word in block)
    return found


def test_a_run_returns_what_is_live_and_how_good_it_is(first: dict[str, Any], deployment: Deployment) -> None:
    assert (first["model"], first["release"], first["new"], first["passed"]) == (SLUG, 1, True, True)
    assert first["gates"].keys() == {gate.name for gate in gates_for(ReleaseRequest())}
    scores = first["scores"]
    assert scores["perplexity_before"] < scores["perplexity_after"]
    assert scores["agreement"] >= ReleaseRequest().min_agreement
    assert scores["tokens_per_s"].keys() == {"1", "4"}
    answer = httpx.post(first["endpoint"], json=SEED_REQUEST, timeout=120).raise_for_status().json()
    assert "French" in answer["text_output"]
    assert f":{deployment.settings.live_http_port}/" in first["endpoint"]


def test_the_report_that_it_names_is_at_the_web_uis_address(client: Client, first: dict[str, Any]) -> None:
    token = {"Authorization": f"Bearer {client.api.configuration.access_token}"}
    path = f"/hf2triton/reports/{first['model']}/{first['release']}/report.json"
    report = httpx.get(f"{client.api.configuration.host}{path}", headers=token).raise_for_status().json()
    assert report == json.loads(Path(first["report"]).with_name("report.json").read_text())


def test_the_report_has_the_run_with_its_times_and_versions(first: dict[str, Any]) -> None:
    report = json.loads(Path(first["report"]).with_name("report.json").read_text())
    tasks = {task["task"]: task["seconds"] for task in report["run"]["tasks"]}
    assert {"check_request", "validate_generate", "promote_release"} <= tasks.keys()
    assert all(tasks.values())
    assert {"airflow", "code", "dag_version", "envoy", "triton"} <= report["run"]["versions"].keys()
    assert report["run"]["queued_at"] <= report["run"]["started_at"]
    assert all(stage["size_bytes"] for stage in report["chain"])


def test_all_tasks_read_one_request_as_the_run_was_asked_for(
    client: Client, first: dict[str, Any], deployment: Deployment
) -> None:
    release = ReleaseStore(deployment.settings.artifacts / "releases").get(SLUG, 1)
    assert {name: release.request[name] for name in CONF} == CONF


@pytest.mark.parametrize(
    ("field", "value"), [("awq_group_size", 65), ("model", "org/../name"), ("test_prompts", []), ("tp_size", "two")]
)
def test_a_field_out_of_its_limits_is_refused_by_name(client: Client, field: str, value: object) -> None:
    with pytest.raises(airflow.ApiException) as refused:
        client.trigger(f"bad-{field}", {**CONF, field: value})
    assert refused.value.status == httpx.codes.BAD_REQUEST
    assert json.loads(refused.value.body)["detail"].startswith(f"Invalid input for param {field}")


@pytest.mark.parametrize(
    ("field", "value"), [("max_input_len", 4096), ("calib_sise", 32)], ids=["wrong together", "unknown"]
)
def test_what_only_the_first_task_can_tell_is_in_its_error(
    client: Client, first: dict[str, Any], field: str, value: int, live_answers: Callable[[], bool]
) -> None:
    client.trigger(field, {**CONF, field: value})
    assert client.wait(field) == "failed"
    assert client.result(field) is None
    errors = client.errors(field)
    assert list(errors) == ["check_request"]
    assert field in errors["check_request"]
    assert live_answers()


def test_the_same_id_again_starts_nothing(client: Client, first: dict[str, Any]) -> None:
    before = airflow.DagRunApi(client.api).get_dag_run(DAG, "first")
    client.trigger("first", CONF)
    assert airflow.DagRunApi(client.api).get_dag_run(DAG, "first") == before


def test_the_same_conf_again_is_all_hits_and_the_same_release(
    client: Client, first: dict[str, Any], deployment: Deployment
) -> None:
    record = live_records(deployment.settings.artifacts)[first["name"]]
    before = servers.find(record)
    client.trigger("again", CONF)
    assert client.wait("again") == "success"
    assert client.result("again") == {**first, "new": False}
    for task in ("calibrate_awq", "build_engine", "assemble_repository"):
        assert client.result("again", task)["reused"], task
    assert client.result("again", "launch_triton") is None, "no candidate"
    assert servers.find(record) == before


@pytest.fixture
def cancelled(client: Client, first: dict[str, Any], bash: Callable[..., str]) -> str:
    """A run that was cancelled while its calibration ran."""
    client.trigger("cancelled", {**CONF, "calib_size": 8})
    client.reach("cancelled", "calibrate_awq", "running")
    bash(operation('"failed"'), RUN="cancelled")
    client.cancel("cancelled")
    return "cancelled"


def test_a_cancelled_run_leaves_nothing(
    client: Client, cancelled: str, deployment: Deployment, live_answers: Callable[[], bool]
) -> None:
    assert client.wait(cancelled) == "failed"
    run = airflow.DagRunApi(client.api).get_dag_run(DAG, cancelled)
    assert run.note == "rest int4 g64 -> cancelled in calibrate_awq: nothing went live"
    assert client.result(cancelled) is None
    store = deployment.settings.artifacts
    # until the next heartbeat of the task
    wait_for(lambda: not stages(deployment) and not list(store.glob("*/*.partial-*")), within_s=TIMEOUT_S, every_s=0.5)
    assert list(store.glob("servers/candidate-*.json")) == []
    assert list(store.glob("pins/*")) == []
    assert [path.name for path in store.glob(f"releases/{SLUG}/[0-9]*")] == ["1"]
    assert live_answers()


def test_an_approval_by_curl_makes_the_release_live(
    client: Client, first: dict[str, Any], bash: Callable[..., str]
) -> None:
    client.trigger(
        "asked",
        {**CONF, "max_batch_size": 4, "speed_concurrencies": [1], "require_approval": True, "min_speed_ratio": 0},
    )
    client.reach("asked", "approve_release", "awaiting_input")
    assert json.loads(bash(operation("hitlDetails"), RUN="asked")) == ["Approve"]
    assert client.wait("asked") == "success"
    assert (client.result("asked")["release"], client.result("asked")["new"]) == (2, True)


def test_a_rollback_by_curl_returns_what_is_live(first: dict[str, Any], bash: Callable[..., str]) -> None:
    ended = json.loads(bash(operation("rollback_release").replace("smollm2-135m-instruct", first["name"])))
    assert ended == {"state": "success", "result": {**first, "new": True, "contract": ANY}}
    changes = {change["field"]: change["breaking"] for change in ended["result"]["contract"]["changes"]}
    assert changes == {"max_batch_size": False}


def test_pruning_and_checking_by_curl_return_their_results(first: dict[str, Any], bash: Callable[..., str]) -> None:
    pruned, checked = map(json.loads, bash(operation("prune_artifacts")).splitlines())
    assert (pruned["state"], pruned["result"]["dry_run"]) == ("success", True)
    mine = [live for live in checked["result"] if live["name"] == first["name"]]
    assert (checked["state"], mine) == ("success", [{**first, "new": False, "contract": ANY}])


def test_the_curl_script_releases_and_asks(first: dict[str, Any], bash: Callable[..., str]) -> None:
    released, answer = map(json.loads, bash(RELEASE).splitlines())
    assert released == {"state": "success", "result": {**first, "new": False, "contract": ANY}}
    assert "French" in answer["text_output"]
