"""Models and calibration data from a mirror, which is all that the worker can reach."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest

from include.context import Context
from include.errors import TransientError
from include.settings import Settings
from include.tasks import check_request, pull_model
from tests.support import tiny_files as tiny
from tests.support.hub_server import HubServer, Repo
from tests.support.no_network import no_network

PARAMS = {"model": "org/name", "calib_seq_len": 64, "max_input_len": 128, "max_seq_len": 256}
TEXTS = b'{"text": "One document."}\n{"text": "Another."}\n'


@pytest.fixture(autouse=True)
def attempts() -> Iterator[Callable[[], int]]:
    """How often something else than the mirror was asked."""
    with no_network() as attempts:
        yield attempts


@pytest.fixture
def mirror(attempts: Callable[[], int], hub: HubServer) -> HubServer:
    hub.add(Repo("org/name", tiny.model()))
    hub.add(Repo("org/texts", {"train.jsonl": TEXTS}, kind="dataset"))
    return hub


@pytest.fixture
def context(context: Context, mirror: HubServer, monkeypatch: pytest.MonkeyPatch) -> Context:
    monkeypatch.setenv("HF_ENDPOINT", mirror.endpoint)
    return replace(context, settings=Settings())


def test_a_model_and_a_data_set_come_from_the_mirror_alone(context: Context, attempts: Callable[[], int]) -> None:
    checked = check_request.run(context, {**PARAMS, "calib_data": "org/texts"})
    pulled = pull_model.run(context, checked)
    files = {path.name: path.read_bytes() for path in pulled.model.load(context.store).path.iterdir()}
    assert files.items() >= tiny.model().items()
    assert pulled.dataset is not None
    assert (pulled.dataset.load(context.store).path / "train.jsonl").read_bytes() == TEXTS
    assert attempts() == 0


def test_a_mirror_that_sends_downloads_elsewhere_is_told_from_one_that_is_away(
    context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(HubServer, "storage", "https://cdn.example/storage")
    with pytest.raises(TransientError, match=r"on to cdn\.example, which cannot be reached") as failure:
        check_request.run(context, PARAMS)
    assert "mirror that serves the files itself" in failure.value.fix


def test_the_hub_itself_is_out_of_reach_and_the_ways_without_it_are_named(
    context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "https://hub.example")
    with pytest.raises(TransientError, match="the Hub cannot be reached") as failure:
        check_request.run(replace(context, settings=Settings()), PARAMS)
    assert "HF_ENDPOINT" in failure.value.fix
    assert "local directory" in failure.value.fix
