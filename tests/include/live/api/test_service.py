"""The list of live models, as the live address writes it for the service."""

from __future__ import annotations

from pathlib import Path

import pytest

from include.artifacts.kind import Kind
from include.context import Context
from include.live.api import models
from include.live.api.service import ApiService, models_file
from include.releases.records import Release
from include.settings import Settings
from tests.support.served import write_repository, write_tokenizer


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(artifacts=tmp_path, start_supervisor=False)


def release(settings: Settings, letter: str, *, streaming: bool = True) -> Release:
    """A release of a repository of target openvino."""
    name = letter * 64
    tokenizer = write_tokenizer(settings.artifacts / letter / "tokenizer")
    tokenizer.with_name("generation_config.json").write_text('{"eos_token_id": [5, 7]}')
    write_repository(settings.artifacts / Kind.REPOSITORY / name, tokenizer, streaming=streaming)
    request = {"model": f"org/{letter.upper()}", "max_input_len": 32, "max_seq_len": 64, "aliases": ["also"]}
    return Release(model=f"org--{letter}", number=3, target="openvino", repository=name, chain={}, request=request)


def test_a_live_release_is_described_by_its_own_files(settings: Settings) -> None:
    ApiService(Context(settings, print, "", "")).serve([release(settings, "a", streaming=False)])
    (model,) = models.published(models_file(settings))
    assert (model.name, model.aliases, model.release) == ("a", ("also",), "org--a/3")
    assert (model.end_ids, model.streaming, model.max_input_len, model.max_seq_len) == ((5, 7), False, 32, 64)
    assert model.engine_ends == {1}
    assert {"temperature", "seed", "runtime_top_p"} <= model.inputs


def test_one_that_is_damaged_costs_no_other(settings: Settings) -> None:
    said: list[str] = []
    broken, unknown, whole = (release(settings, letter) for letter in "abc")
    (settings.artifacts / "a" / "generation_config.json").write_text("{")
    unknown = unknown.model_copy(update={"repository": "d" * 64})
    ApiService(Context(settings, said.append, "", "")).serve([broken, unknown, whole])
    assert [model.name for model in models.published(models_file(settings))] == ["c"]
    assert len(said) == 1
    assert said[0].startswith("the API does not serve org--a/3: generation_config.json")


def test_no_live_release_is_an_empty_list(settings: Settings) -> None:
    service = ApiService(Context(settings, print, "", ""))
    service.serve([release(settings, "a")])
    service.serve([])
    assert models.published(models_file(settings)) == ()
