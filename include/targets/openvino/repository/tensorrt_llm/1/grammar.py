"""Bad words, as a grammar of every text that has none of them.

OpenVINO GenAI has no list of banned tokens, but masks what a grammar does not allow. xgrammar's own
``TagDispatch(excludes=...)`` misses words that begin inside another one in the version that GenAI 2026.4 carries
(fixed in xgrammar 0.2), so the grammar spells out the automaton of Aho and Corasick (1975).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable
from dataclasses import dataclass

_LAST_CODE_POINT = 0x10FFFF


@dataclass(frozen=True)
class _State:
    """What follows a longest match so far: the state of each character that extends some match; others reset it."""

    moves: dict[str, int]
    is_bad: bool


class TooManyWords(Exception):
    """The words' automaton would take too long to compile."""


def grammar_without(words: Collection[str], max_states: int = 400) -> str:
    """EBNF, as xgrammar reads it, of every text without any of the non-empty ``words``, however tokens split it.

    Compiling it takes a time proportional to its states, at most one for each character of the words.

    Raises:
        TooManyWords: there are more than ``max_states``.
    """
    if sum(map(len, words)) > max_states:
        raise TooManyWords(f"bad_words have more than {max_states} characters together")
    states = _automaton(words)
    rules = [_rule(number, states) for number, state in enumerate(states) if not state.is_bad]
    return "\n".join(["root ::= s0", *rules])


def _rule(number: int, states: list[_State]) -> str:
    moves = states[number].moves
    allowed = [(character, to) for character, to in sorted(moves.items()) if not states[to].is_bad]
    extensions = [f'"{_escaped(ord(character))}" s{to}' for character, to in allowed]
    return f"s{number} ::= " + " | ".join(['""', f"{_all_but(moves)} s0", *extensions])


def _automaton(words: Iterable[str]) -> list[_State]:
    trie, ends = _trie(words)
    moves = [dict(node) for node in trie]
    fallback = [0] * len(trie)
    queue = deque([0])
    while queue:
        node = queue.popleft()
        ends[node] = ends[node] or ends[fallback[node]]
        moves[node] = {**moves[fallback[node]], **trie[node]}
        for character, child in trie[node].items():
            fallback[child] = moves[fallback[node]].get(character, 0) if node else 0
            queue.append(child)
    return [_State(*state) for state in zip(moves, ends, strict=True)]


def _trie(words: Iterable[str]) -> tuple[list[dict[str, int]], list[bool]]:
    trie: list[dict[str, int]] = [{}]
    ends = [False]
    for word in words:
        node = 0
        for character in word:
            if character not in trie[node]:
                trie[node][character] = len(trie)
                trie.append({})
                ends.append(False)
            node = trie[node][character]
        ends[node] = True
    return trie, ends


def _all_but(characters: Iterable[str]) -> str:
    """A class of all other characters, as ranges: xgrammar negates classes of ASCII only."""
    ranges = []
    first = 1
    for code in [*sorted(map(ord, characters)), _LAST_CODE_POINT + 1]:
        if first < code:
            ranges.append(f"{_escaped(first)}-{_escaped(code - 1)}")
        first = code + 1
    return f"[{''.join(ranges)}]"


def _escaped(code: int) -> str:
    return f"\\U{code:08x}"
