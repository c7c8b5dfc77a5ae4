from __future__ import annotations

from typing import Any

import pytest
from options import InvalidRequest, Options


@pytest.mark.parametrize(
    ("given", "samples"),
    [
        pytest.param({}, False, id="nothing"),
        pytest.param({"temperature": 0.7}, False, id="temperature alone, as upstream"),
        pytest.param({"top_k": 1, "top_p": 0.9}, False, id="top_k 1"),
        pytest.param({"top_k": 50, "temperature": 0.0}, False, id="temperature 0"),
        pytest.param({"top_k": 0, "top_p": 0.0}, False, id="zeros, as upstream"),
        pytest.param({"top_k": 50}, True, id="top_k"),
        pytest.param({"top_p": 0.9}, True, id="top_p"),
    ],
)
def test_decoding_is_greedy_unless_asked_to_sample(given: dict[str, Any], samples: bool) -> None:
    assert Options(max_tokens=5, **given).generation_config().do_sample is samples


def test_options_reach_the_engine() -> None:
    config = Options(
        max_tokens=7,
        min_tokens=3,
        end_id=5,
        top_k=40,
        top_p=0.5,
        temperature=0.25,
        repetition_penalty=1.5,
        presence_penalty=0.5,
        frequency_penalty=0.125,
        seed=2**63 + 1,
    ).generation_config()
    assert (config.max_new_tokens, config.min_new_tokens, config.eos_token_id) == (7, 3, 5)
    assert (config.top_k, config.top_p, config.temperature, config.rng_seed) == (40, 0.5, 0.25, 2**63 + 1)
    assert (config.repetition_penalty, config.presence_penalty, config.frequency_penalty) == (1.5, 0.5, 0.125)


@pytest.mark.parametrize(
    ("end_id", "ends"),
    [
        pytest.param(None, {2, 9}, id="none: the model's own"),
        pytest.param(9, {2, 9}, id="one of the model's own: all of them"),
        pytest.param(5, {5}, id="another: that one"),
        pytest.param(-1, set(), id="-1: none"),
        pytest.param(-7, set(), id="another negative one: none, as before"),
    ],
)
def test_end_tokens_are_the_models_own_unless_the_request_names_another(end_id: int | None, ends: set[int]) -> None:
    config = Options(max_tokens=5, end_id=end_id).generation_config(end_ids=frozenset({2, 9}))
    assert (config.stop_token_ids, config.ignore_eos) == (ends, not ends)


@pytest.mark.parametrize("end_id", [None, -1])
def test_without_an_end_id_only_max_tokens_ends(end_id: int | None) -> None:
    assert Options(max_tokens=5, end_id=end_id).generation_config().ignore_eos


@pytest.mark.parametrize(
    ("given", "named"),
    [
        pytest.param({"top_p": 1.5}, "top_p", id="top_p"),
        pytest.param({"top_k": 5, "temperature": -1.0}, "temperature", id="temperature"),
        pytest.param({"repetition_penalty": 0.0}, "repetition_penalty", id="repetition_penalty"),
        pytest.param({"presence_penalty": 3.0}, "presence_penalty", id="presence_penalty"),
        pytest.param({"frequency_penalty": -3.0}, "frequency_penalty must be", id="frequency_penalty"),
        pytest.param({"min_tokens": 6}, "min_tokens 6 must not be above max_tokens 5", id="min_tokens"),
        pytest.param({"top_k": -1}, "top_k", id="top_k"),
        pytest.param({"min_tokens": -1}, "min_tokens", id="negative min_tokens"),
        pytest.param({"seed": -1}, "seed", id="negative seed"),
        pytest.param({"max_tokens": 0}, "max_new_tokens", id="max_tokens"),
        pytest.param({"max_tokens": -1}, "max_tokens", id="negative max_tokens"),
        pytest.param({"temperature": -1.0}, "temperature", id="negative temperature, greedy"),
        pytest.param({"top_p": -0.5}, "top_p", id="negative top_p"),
        pytest.param({"temperature": float("nan")}, "temperature", id="no number"),
        pytest.param({"presence_penalty": float("inf")}, "presence_penalty", id="infinite"),
    ],
)
def test_value_outside_the_limits_is_the_clients_fault(given: dict[str, Any], named: str) -> None:
    with pytest.raises(InvalidRequest, match=named):
        Options(**{"max_tokens": 5, **given}).generation_config()


@pytest.mark.parametrize(
    "words",
    [[f"word{number:02d}abcdefg" for number in range(50)], [str(number) * 4 for number in range(200)], ["x" * 5000]],
    ids=["50 words", "200 words", "one of 5,000 letters"],
)
def test_bad_words_that_would_take_long_to_compile_are_the_clients_fault(words: list[str]) -> None:
    with pytest.raises(InvalidRequest, match="bad_words have more than 400 characters"):
        Options(max_tokens=5, end_id=0).generation_config(words)
