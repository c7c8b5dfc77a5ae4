"""What the tasks get of Airflow's Connections."""

from __future__ import annotations

import json
import re
import traceback
from collections.abc import Iterator
from types import SimpleNamespace

import pytest
from airflow.sdk.log import redact

from hf2triton.context import _run_state, hub_token, registry_login
from hf2triton.operators.task import call_task
from include.errors import HostError, TransientError
from include.host.docker.registry import RegistryLogin
from include.settings import settings

COMPLETE = {"conn_type": "docker", "host": "registry.example", "login": "puller", "password": "s3cret-0f-m1ne"}


@pytest.fixture(autouse=True)
def named(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("HF2TRITON_DOCKER_CONNECTION", "images")
    settings.cache_clear()
    yield
    settings.cache_clear()


def test_no_connection_is_looked_up_if_none_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF2TRITON_DOCKER_CONNECTION")
    settings.cache_clear()
    assert registry_login() is None


@pytest.mark.parametrize(
    ("changes", "registry"),
    [({}, "registry.example"), ({"port": 5000}, "registry.example:5000"), ({"host": "r.example:1"}, "r.example:1")],
    ids=["host", "host and port", "port in the host"],
)
def test_the_login_is_that_of_the_connection(
    monkeypatch: pytest.MonkeyPatch, changes: dict[str, object], registry: str
) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_IMAGES", json.dumps(COMPLETE | changes))
    assert registry_login() == RegistryLogin("images", registry, "puller", "s3cret-0f-m1ne")
    assert redact("the password s3cret-0f-m1ne in a log") == "the password *** in a log"


def test_a_connection_that_is_not_there_is_named() -> None:
    with pytest.raises(HostError, match="no Airflow Connection images") as missing:
        registry_login()
    assert "HF2TRITON_DOCKER_CONNECTION" in missing.value.where


@pytest.mark.parametrize("field", ["host", "login", "password"])
def test_a_connection_that_is_not_complete_is_refused(monkeypatch: pytest.MonkeyPatch, field: str) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_IMAGES", json.dumps({k: v for k, v in COMPLETE.items() if k != field}))
    with pytest.raises(HostError, match=re.escape("lacks the host, the login or the password")):
        registry_login()


def test_a_token_is_stripped_so_that_its_mask_fits_what_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    token = json.dumps({"conn_type": "http", "password": "hf_w1th_newline\n"})
    monkeypatch.setenv("AIRFLOW_CONN_HUGGINGFACE_DEFAULT", token)
    assert hub_token() == "hf_w1th_newline"
    assert redact("Bearer hf_w1th_newline in a log") == "Bearer *** in a log"


def test_no_task_shows_the_workers_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://user:pr0xy-pw@proxy.example:3128")
    lines: list[str] = []

    def task(context) -> None:
        context.log("through user:pr0xy-pw and https://store.example/x?Signature=abc")
        try:
            raise OSError("cannot connect to http://user:pr0xy-pw@proxy.example:3128")
        except OSError as error:
            raise TransientError("the Hub cannot be reached") from error

    airflow = {"ti": SimpleNamespace(dag_id="d"), "run_id": "r"}
    with pytest.raises(TransientError, match="cannot be reached") as failed:
        call_task(task, {}, airflow, lines.append)  # type: ignore[arg-type]
    assert "pr0xy-pw" not in "".join(traceback.format_exception(failed.value))
    assert lines == ["through user:*** and https://store.example/x"]
    assert redact("a library's own line with pr0xy-pw") == "a library's own line with ***"


@pytest.mark.parametrize(
    ("states", "state"),
    [
        ({}, None),
        ({"release_awq_engine": "running"}, "running"),
        ({"compare_settings": "queued"}, "queued"),
        ({"compare_settings": "failed"}, "failed"),
        ({"release_awq_engine": "success", "compare_settings": "running"}, "running"),
    ],
    ids=["unknown", "a release", "a comparison", "one that is over", "one of both runs"],
)
def test_a_run_that_makes_artifacts_is_known(states: dict[str, str], state: str | None) -> None:
    ti = SimpleNamespace(
        get_dr_count=lambda dag, run_ids: int(dag in states), get_dagrun_state=lambda dag, run_id: states[dag]
    )
    assert _run_state(ti, "r") == state  # type: ignore[arg-type]
