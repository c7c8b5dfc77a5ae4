from __future__ import annotations

import random
import re

import pytest
from grammar import grammar_without

WORDS = [
    pytest.param({"a"}, id="letter"),
    pytest.param({"aab"}, id="own beginning repeats"),
    pytest.param({"abac", "bad"}, id="one begins inside another"),
    pytest.param({"abcd", "bc"}, id="one inside another"),
    pytest.param({"ab", "ba", "bb"}, id="all overlap"),
    pytest.param({'"', "\\", "\n", "]", "^", "-"}, id="what the grammar itself is written with"),
    pytest.param({"é", "日本", "😀a"}, id="characters of several bytes"),
]


def _rules(grammar: str) -> dict[str, list[tuple[str, str]]]:
    """Each state's moves: a pattern of one character, and the state after it."""
    rules: dict[str, list[tuple[str, str]]] = {}
    for line in grammar.splitlines()[1:]:
        name, alternatives = line.split(" ::= ")
        empty, *moves = alternatives.split(" | ")
        assert empty == '""'
        rules[name] = [(pattern.strip('"'), state) for pattern, state in (move.rsplit(" ", 1) for move in moves)]
    return rules


def _accepts(rules: dict[str, list[tuple[str, str]]], text: str) -> bool:
    state = "s0"
    for character in text:
        states = [after for pattern, after in rules[state] if re.fullmatch(pattern, character)]
        if not states:
            return False
        (state,) = states
    return True


@pytest.mark.parametrize("words", WORDS)
def test_grammar_takes_every_text_but_those_with_a_bad_word(words: set[str]) -> None:
    rules = _rules(grammar_without(words))
    letters = [*"".join(sorted(words)), "z", "ü"]
    rng = random.Random(1)
    texts = ["".join(rng.choices(letters, k=rng.randrange(12))) for _ in range(2000)]
    wrong = [text for text in texts if _accepts(rules, text) == any(word in text for word in words)]
    assert not wrong
    assert any(any(word in text for word in words) for text in texts)
