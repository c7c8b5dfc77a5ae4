"""A model with several end tokens on upstream's one: our own model between preprocessing and engine."""

from __future__ import annotations

import importlib.util
import itertools
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from include.errors import ToolError
from include.releases.contract import Contract
from include.targets.tensorrt_llm import templates
from include.triton import repository
from tests.include.targets.tensorrt_llm.test_repository import OVERLAY, TEMPLATES, local, values

ENDS = (151645, 151643)


@pytest.fixture
def store(tmp_path: Path) -> Path:
    (tmp_path / "store" / "engine").mkdir(parents=True)
    (tmp_path / "store" / "checkpoint" / "tokenizer").mkdir(parents=True)
    return tmp_path / "store"


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.setitem(sys.modules, "triton_python_backend_utils", ModuleType("triton_python_backend_utils"))
    spec = importlib.util.spec_from_file_location("end_tokens", OVERLAY / "end_tokens" / "1" / "model.py")
    assert spec
    assert spec.loader
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


def assembled(store: Path, out: Path, ends: tuple[int, ...]) -> Path:
    repository.assemble(TEMPLATES, values(store, ends=ends), out, OVERLAY)
    templates.connect(out)
    repository.check(out, path_map=lambda path: local(store, path))
    return out


def test_the_engine_gets_the_further_end_tokens(store: Path, tmp_path: Path) -> None:
    models = repository.read(assembled(store, tmp_path / "repository", ENDS))
    assert models["end_tokens"].parameters["end_ids"].string_value == "151645 151643"
    steps = {step.model_name: step for step in models["ensemble"].ensemble_scheduling.step}
    made = steps["preprocessing"].output_map["STOP_WORDS_IDS"]
    assert steps["end_tokens"].input_map["STOP_WORDS_IDS"] == made
    assert steps["end_tokens"].input_map["END_ID"] == steps["preprocessing"].output_map["OUT_END_ID"]
    assert steps["tensorrt_llm"].input_map["stop_words_list"] == steps["end_tokens"].output_map["STOP_WORDS_AND_ENDS"]
    assert steps["tensorrt_llm"].input_map["end_id"] == steps["preprocessing"].output_map["OUT_END_ID"]


def test_the_contract_names_them(store: Path, tmp_path: Path) -> None:
    found = [Contract.stored(assembled(store, tmp_path / str(len(ends)), ends), {}).end_ids for ends in (ENDS, (2,))]
    assert found == [frozenset(ENDS), None]


@pytest.mark.parametrize("ends", [(), (2,)])
def test_with_one_end_token_the_ensemble_is_upstreams(store: Path, tmp_path: Path, ends: tuple[int, ...]) -> None:
    models = repository.read(assembled(store, tmp_path / "repository", ends))
    assert sorted(models) == sorted(templates.MODELS)


def test_an_ensemble_without_stop_words_is_refused(store: Path, tmp_path: Path) -> None:
    out = tmp_path / "repository"
    repository.assemble(TEMPLATES, values(store, ends=ENDS), out, OVERLAY)
    path = out / "ensemble" / "config.pbtxt"
    path.write_text(path.read_text().replace('input_map { key: "stop_words_list" value: "_STOP_WORDS_IDS" }', ""))
    with pytest.raises(ToolError, match="no stop_words_list"):
        templates.connect(out)


def words(array: np.ndarray) -> list[list[list[int]]]:
    """As the engine reads them: each row's words."""
    found = []
    for flat, ends in array.tolist():
        places = [0, *(end for end in ends if end > 0)]
        found.append([flat[start:end] for start, end in itertools.pairwise(places)])
    return found


EMPTY = np.empty((1, 2, 0), np.int32)
PADDED = np.array([[[5, 6, 7, 0], [2, 3, -1, -1]], [[8, 0, 0, 0], [1, -1, -1, -1]]], np.int32)
NONE = np.array([[[0], [-1]]], np.int32)


@pytest.mark.parametrize(
    ("given", "asked", "expected"),
    [
        pytest.param(EMPTY, [151645], [[[151643]]], id="no words"),
        pytest.param(NONE, [151645], [[[151643]]], id="a row that is padding"),
        pytest.param(EMPTY, [151643], [[[151645]]], id="another of the model's"),
        pytest.param(EMPTY, [-1], [[]], id="none asked for"),
        pytest.param(EMPTY, [7], [[]], id="another token"),
        pytest.param(PADDED, [151645, -1], [[[5, 6], [7], [151643]], [[8]]], id="rows with words"),
    ],
)
def test_one_end_token_stands_for_all(
    model: ModuleType, given: np.ndarray, asked: list[int], expected: list[list[list[int]]]
) -> None:
    added = model.with_ends(given, asked, ENDS)
    assert added.dtype == np.int32
    assert words(added) == expected
