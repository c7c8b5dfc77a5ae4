from __future__ import annotations

import json
from pathlib import Path

import pytest

from include.errors import UserError
from include.model_config import ModelConfig
from include.sources.transformers4 import transformers4_view
from tests.include.sources import tiny

ROPE5 = {"rope_theta": 500000.0, "rope_type": "llama3", "factor": 8.0}
TOKENIZER5 = {"tokenizer_class": "TokenizersBackend", "eos_token": "</s>", "extra_special_tokens": ["<a>"]}


@pytest.fixture
def model5(tmp_path: Path) -> Path:
    """A model as transformers 5.23 writes it."""
    config = {name: value for name, value in tiny.CONFIG.items() if name != "rope_theta"}
    files = {
        "config.json": json.dumps(config | {"rope_parameters": ROPE5}).encode(),
        "tokenizer_config.json": json.dumps(TOKENIZER5).encode(),
    }
    return tiny.write(tiny.model() | files, tmp_path / "model")


def read_json(path: Path) -> dict[str, object]:
    fields: dict[str, object] = json.loads(path.read_text())
    return fields


def test_the_rotary_base_stands_where_version_4_looks(model5: Path, tmp_path: Path) -> None:
    view = transformers4_view(model5, tmp_path / "view")
    fields = read_json(view / "config.json")
    assert fields["rope_theta"] == 500000.0
    assert fields["rope_scaling"] == {"rope_type": "llama3", "factor": 8.0}
    assert "rope_parameters" not in fields
    before, after = ModelConfig.read(model5), ModelConfig.read(view)
    assert (before.transformers5, after.transformers5) == (True, False)
    assert after == before.model_copy(update={"transformers5": False})


def test_the_tokenizer_is_of_a_class_that_version_4_has(model5: Path, tmp_path: Path) -> None:
    view = transformers4_view(model5, tmp_path / "view")
    assert read_json(view / "tokenizer_config.json") == {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": "</s>",
        "additional_special_tokens": ["<a>"],
    }


def test_the_model_itself_stays_as_it_is(model5: Path, tmp_path: Path) -> None:
    before = {path.name: path.read_bytes() for path in model5.iterdir()}
    view = transformers4_view(model5, tmp_path / "view")
    assert {path.name: path.read_bytes() for path in model5.iterdir()} == before
    assert sorted(path.name for path in view.iterdir()) == sorted(before)
    assert (view / "model.safetensors").samefile(model5 / "model.safetensors")


def test_what_version_4_wrote_keeps_its_meaning(tmp_path: Path) -> None:
    model = tiny.write(tiny.model(), tmp_path / "model")
    view = transformers4_view(model, tmp_path / "view")
    assert {path.name: read_json(path) for path in view.glob("*.json")} == {
        path.name: read_json(path) for path in model.glob("*.json")
    }


def test_a_configuration_that_cannot_be_used_leaves_nothing(tmp_path: Path) -> None:
    model = tiny.write({"config.json": b"{}"}, tmp_path / "model")
    with pytest.raises(UserError):
        transformers4_view(model, tmp_path / "view")
    assert not (tmp_path / "view").exists()
