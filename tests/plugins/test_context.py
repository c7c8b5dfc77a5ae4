"""What the tasks get of Airflow's Connections."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

import pytest
from airflow.sdk.log import redact

from hf2triton.context import registry_login
from include.errors import HostError
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
