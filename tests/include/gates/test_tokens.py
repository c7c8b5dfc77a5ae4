from __future__ import annotations

from pathlib import Path

import pytest

from include.gates.agreement import repeated_share
from include.gates.tokens import common_prefix, special_texts, splitter
from tests.support.triton_stand_in import END, write_tokenizer


def test_text_is_split_as_the_checkpoints_tokenizer_does(tmp_path: Path) -> None:
    split = splitter(write_tokenizer(tmp_path / "tokenizer"))
    assert split(" one, two,\n") == split("one, two,")
    assert len(split("one, two, three,")) == 3
    assert len(set(split("one, two, three,"))) == 3


def test_without_a_tokenizer_words_and_marks_are_counted(tmp_path: Path) -> None:
    assert splitter(None)(" It's one, two.") == ["It", "'", "s", "one", ",", "two", "."]
    assert splitter(tmp_path)("one two") == ["one", "two"]


def test_special_tokens_are_those_that_the_tokenizer_calls_so(tmp_path: Path) -> None:
    assert special_texts(write_tokenizer(tmp_path / "tokenizer")) == (END,)
    assert special_texts(None) == special_texts(tmp_path / "none") == ()


@pytest.mark.parametrize(
    ("one", "other", "equal"),
    [("abcd", "abcd", 4), ("abcd", "abXd", 2), ("ab", "abcd", 2), ("Xb", "ab", 0), ("", "a", 0)],
)
def test_common_prefix_ends_at_the_first_difference(one: str, other: str, equal: int) -> None:
    assert common_prefix(one, other) == equal


@pytest.mark.parametrize(
    ("text", "share"),
    [
        pytest.param("abcdefgh", 0.0, id="none"),
        pytest.param("abc", 0.0, id="too short"),
        pytest.param("aaaaaaaa", 0.8, id="one token"),
        pytest.param("abcdabcdabcd", 1 - 4 / 9, id="a phrase"),
    ],
)
def test_repeated_share_is_of_sequences_said_before(text: str, share: float) -> None:
    assert repeated_share(text) == pytest.approx(share)
