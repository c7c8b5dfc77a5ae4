from __future__ import annotations

import json
from pathlib import Path

import pytest

from include.model.tokenizer import TokenizerFacts


def write(folder: Path, **settings: object) -> Path:
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


def test_reads_tokens_written_either_way(tmp_path: Path) -> None:
    facts = TokenizerFacts.read(write(tmp_path, bos_token="<s>", eos_token={"content": "</s>", "special": True}))
    assert facts.named == {"bos_token": "<s>", "eos_token": "</s>"}


def test_a_template_of_its_own_file_goes_first(tmp_path: Path) -> None:
    (tmp_path / "chat_template.jinja").write_text("new")
    assert TokenizerFacts.read(write(tmp_path, chat_template="old")).named == {"chat_template": "new"}


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"tokenizer_class": "TokenizersBackend"}, (True, ())),
        ({"extra_special_tokens": ["<one>", {"content": "<two>"}]}, (True, ("<one>", "<two>"))),
        ({"extra_special_tokens": {"image_token": "<image>"}}, (False, ())),
        ({}, (False, ())),
    ],
    ids=["class", "list", "names of version 4", "neither"],
)
def test_tells_the_versions_apart(tmp_path: Path, settings: dict[str, object], expected: object) -> None:
    facts = TokenizerFacts.read(write(tmp_path, **settings))
    assert (facts.of_transformers_5, facts.extra_special_tokens) == expected


def test_a_model_may_have_none(tmp_path: Path) -> None:
    assert TokenizerFacts.read(tmp_path) == TokenizerFacts(False, {}, ())
