"""Pulling into the store: once, proven, and nothing half that counts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from include.context import Context
from include.errors import PipelineError, TransientError
from include.settings import Settings
from include.tasks import Checked, check_request, pull_model
from tests.support import tiny_files as tiny
from tests.support.hub_server import Corrupt, HubServer, Repo, Status

WEIGHTS = "model.safetensors"
PARAMS = {"model": "org/name", "calib_seq_len": 64, "max_input_len": 128, "max_seq_len": 256}


@pytest.fixture
def context(context: Context, hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> Context:
    hub.add(Repo("org/name", tiny.model()))
    monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
    return replace(context, settings=Settings())


@pytest.fixture
def checked(context: Context) -> Checked:
    return check_request.run(context, PARAMS)


def models(context: Context) -> list[Path]:
    return sorted((context.settings.artifacts / "models").glob("*"))


def test_the_model_is_an_artifact_named_by_its_commit(context: Context, checked: Checked) -> None:
    pulled = pull_model.run(context, checked)
    assert pulled.model.name == f"org--name@{checked.source.commit}"
    assert (pulled.model.load(context.store).path / WEIGHTS).read_bytes() == tiny.model()[WEIGHTS]
    assert not pulled.model.reused


def test_model_and_store_lie_under_any_name(
    context: Context, tmp_path: Path, short_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny.write(tiny.model(), tmp_path / "Modèle (neu) [1]: a 'b'")
    monkeypatch.setenv("HF2TRITON_ARTIFACTS", str(short_path / "störe (a) [b]: c"))
    context = replace(context, settings=Settings())
    pulled = pull_model.run(context, check_request.run(context, PARAMS | {"model": str(model)}))
    path = pulled.model.load(context.store).path
    assert path.is_relative_to(short_path / "störe (a) [b]: c")
    assert path.name.isascii()
    assert (path / WEIGHTS).read_bytes() == tiny.model()[WEIGHTS]


def test_a_second_pull_asks_the_hub_for_nothing(context: Context, checked: Checked, hub: HubServer) -> None:
    pull_model.run(context, checked)
    asked = len(hub.requests)
    assert pull_model.run(context, checked).model.reused
    assert len(hub.requests) == asked


def test_a_network_failure_keeps_what_has_arrived_for_the_next_attempt(
    context: Context, checked: Checked, hub: HubServer
) -> None:
    hub.fail(WEIGHTS, *[Status(503)] * 40)
    with pytest.raises(TransientError):
        pull_model.run(context, checked)
    (partial,) = models(context)
    assert ".partial-" in partial.name
    hub.heal()
    assert pull_model.run(context, checked).model.load(context.store)
    assert [p.name for p in models(context)] == [f"org--name@{checked.source.commit}"]


def test_bytes_that_are_not_those_declared_leave_nothing(context: Context, checked: Checked, hub: HubServer) -> None:
    hub.fail(WEIGHTS, Corrupt(), Corrupt(), Corrupt(), Corrupt())
    with pytest.raises(PipelineError, match=WEIGHTS) as failure:
        pull_model.run(context, checked)
    assert not failure.value.retry
    assert models(context) == []
