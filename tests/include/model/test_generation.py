from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from include.errors import UserError
from include.model.generation import end_ids, suppressed_ids


@pytest.mark.parametrize(
    ("named", "ids"),
    [
        pytest.param(7, (7,), id="one"),
        pytest.param([128001, 128008, 128009], (128001, 128008, 128009), id="several, as Llama 3"),
        pytest.param([7, 7], (7,), id="one twice"),
        pytest.param([], (), id="an empty list"),
        pytest.param(None, (), id="null"),
    ],
)
def test_reads_the_end_tokens(tmp_path: Path, named: Any, ids: tuple[int, ...]) -> None:
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": named, "temperature": 0.6}))
    assert end_ids(tmp_path) == ids


def test_a_model_may_have_no_generation_config(tmp_path: Path) -> None:
    assert end_ids(tmp_path) == ()


@pytest.mark.parametrize("named", ["</s>", ["<|im_end|>"], "2", -1, 2.0, True, [[1]], {"id": 1}, 2**31])
def test_refuses_what_is_no_token_id(tmp_path: Path, named: Any) -> None:
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": named}))
    with pytest.raises(UserError, match="eos_token_id must be the id of a token") as refused:
        end_ids(tmp_path)
    assert str(tmp_path) in str(refused.value)


@pytest.mark.parametrize(("named", "ids"), [([300, 301], (300, 301)), ([], ()), (None, ())])
def test_reads_the_tokens_that_no_answer_has(tmp_path: Path, named: Any, ids: tuple[int, ...]) -> None:
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": 1, "suppress_tokens": named}))
    assert suppressed_ids(tmp_path) == ids


def test_what_a_model_suppresses_does_not_keep_its_end_tokens_from_being_read(tmp_path: Path) -> None:
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": 1, "suppress_tokens": [-1]}))
    assert end_ids(tmp_path) == (1,)
