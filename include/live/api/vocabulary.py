"""A model's tokenizer, for which special tokens in a client's text are text.

A tokenizer takes "<|im_end|>" for the end of a turn, whoever wrote it. So it is loaded with other names for its control
tokens, which no client can know: a random part is new with each load. What the chat template writes gets these names
after rendering; what clients write is marked before, and stays text.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer
from tokenizers.decoders import DecodeStream

from include.errors import HostError
from include.model.files import TOKENIZER_FILE, read_object
from include.model.tokenizer import TokenizerFacts

_CONTEXT = 16
"""Tokens of a prompt that the text of its continuation depends on: whether it begins with a space."""

SHOWN = ("<tool_call>", "</tool_call>")
"""Tokens that stay in an answer, because they say what it is."""


class Vocabulary:
    """One tokenizer. Tokens that are not special count as control tokens if the chat template writes them."""

    def __init__(self, folder: Path, facts: TokenizerFacts, template: str = "") -> None:
        """Loads the tokenizer of a model; raises `HostError` if it cannot be loaded."""
        fields = read_object(folder / TOKENIZER_FILE)
        try:
            ids, special = _added(fields)
            control = [token for token in ids if token in special or token in template]
            nonce = secrets.token_hex(8)
            self._names = {token: f"\ue000{nonce}.{ids[token]}\ue001" for token in control}
            self._tokenizer = _load(_renamed(fields, self._names))
        except (AttributeError, LookupError, TypeError, ValueError) as error:
            raise HostError(f"the tokenizer cannot be loaded: {error}", where=str(folder / TOKENIZER_FILE)) from error
        wrong = [token for token in control if self._encode(self._names[token], special=False) != [ids[token]]]
        if wrong:
            raise HostError(f"the tokenizer's tokens {wrong[:3]} cannot be told from text", where=str(folder))
        self._ids = frozenset(self._tokenizer.get_vocab().values())
        self._mark = f"\ue002{nonce}\ue003"
        self._special, self._control = _Tokens(special), _Tokens(control)
        self._contents = {name: content for content, name in self._names.items()}
        self._bos = facts.named.get("bos_token")
        self.end_id = self.id_of(facts.named.get("eos_token") or "")

    def id_of(self, token: str) -> int | None:
        """The id of a token by its own name."""
        found: int | None = self._tokenizer.token_to_id(self._names.get(token, token))
        return found

    @property
    def size(self) -> int:
        """The number of its tokens."""
        return len(self._ids)

    def first_unknown(self, ids: Sequence[int]) -> int | None:
        """The first of ``ids`` that stands for no token; a model has weights for more ids than it has tokens."""
        return next((one for one in ids if one not in self._ids), None)

    def marked(self, value: Any, *, trusted: bool) -> Any:  # noqa: ANN401 - any JSON
        """A client's values for a template, with marks in what looks like a control token.

        In ``trusted`` values, which an application writes, only special tokens are text.
        """
        if isinstance(value, str):
            return (self._special if trusted else self._control).broken_by(self._mark, value)
        if isinstance(value, dict):
            return {self.marked(k, trusted=trusted): self.marked(v, trusted=trusted) for k, v in value.items()}
        if isinstance(value, list | tuple):
            return [self.marked(one, trusted=trusted) for one in value]
        return value

    def encode_rendered(self, text: str) -> list[int]:
        """The tokens of a template's text; it has all control tokens that there are to be."""
        return self._encode(self._named(text).replace(self._mark, ""), special=False)

    def encode_prompt(self, text: str) -> list[int]:
        """The tokens of a whole prompt: control tokens in it are such; a text begins with one BOS, not two."""
        return self._encode(self._named(text), special=not (self._bos and text.startswith(self._bos)))

    def encode_word(self, text: str) -> list[int]:
        """The tokens of a part of a text, in which nothing is a control token."""
        return self._encode(text, special=False)

    def decoder(self, prompt: Sequence[int] = ()) -> Decoder:
        """The decoder of one answer; with a ``prompt`` that it goes on from."""
        return Decoder(self._tokenizer, prompt[-_CONTEXT:], self._contents)

    def _named(self, text: str) -> str:
        return self._control.replaced(self._names, text)

    def _encode(self, text: str, *, special: bool) -> list[int]:
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=special).ids
        return ids


class Decoder:
    """The text of an answer, token by token; what is not yet valid UTF-8 is held back."""

    def __init__(self, tokenizer: Tokenizer, context: Sequence[int], contents: dict[str, str]) -> None:
        self._tokenizer = tokenizer
        self._stream = DecodeStream(ids=list(context), skip_special_tokens=True)
        self._contents = contents

    def step(self, token: int) -> str:
        """The text that has become certain with this token."""
        text: str = self._stream.step(self._tokenizer, token) or ""
        if "\ue000" in text:
            for name, content in self._contents.items():
                text = text.replace(name, content)
        return text


class _Tokens:
    """The control tokens that are looked for in texts, the longest first."""

    def __init__(self, tokens: Iterable[str]) -> None:
        ordered = sorted(tokens, key=len, reverse=True)
        self._beginnings = {token[:end] for token in ordered for end in range(1, len(token))}
        self._longest = len(ordered[0]) if ordered else 0
        # The first character alone decides almost everywhere, and fast.
        first = "".join(sorted({re.escape(token[0]) for token in ordered}))
        some = f"(?=[{first}])(?:{'|'.join(map(re.escape, ordered))})" if ordered else "(?!)"
        self._whole = re.compile(some)
        self._start = re.compile(f"(?={some})(.)", re.DOTALL)

    def broken_by(self, mark: str, text: str) -> str:
        """The text with a mark in each token, also where two overlap, or where what follows would complete one."""
        broken = self._start.sub(rf"\1{mark}", text)
        open_ended = any(text[-size:] in self._beginnings for size in range(1, min(self._longest, len(text) + 1)))
        return broken + mark if open_ended else broken

    def replaced(self, names: dict[str, str], text: str) -> str:
        """The text with other names for the tokens."""
        return self._whole.sub(lambda found: names[found[0]], text)


def _added(fields: dict[str, Any]) -> tuple[dict[str, int], frozenset[str]]:
    """The ids of the tokens that are found in texts before all else, and the special ones of them."""
    added = [one for one in fields.get("added_tokens") or () if len(one["content"]) > 1]
    ids = {one["content"]: one["id"] for one in added}
    return ids, frozenset(one["content"] for one in added if one["special"])


def _renamed(fields: dict[str, Any], names: dict[str, str]) -> dict[str, Any]:
    """A tokenizer with other names for some tokens, under their own ids."""
    added = [
        {
            **one,
            "content": names.get(one["content"], one["content"]),
            "special": one["special"] and one["content"] not in SHOWN,
        }
        for one in fields.get("added_tokens") or ()
    ]
    model = dict(fields["model"])
    vocabulary = model.get("vocab")
    if isinstance(vocabulary, dict):
        model["vocab"] = {names.get(token, token): number for token, number in vocabulary.items()}
    elif isinstance(vocabulary, list):  # Unigram: pairs of a token and its score
        model["vocab"] = [[names.get(token, token), score] for token, score in vocabulary]
    if "merges" in model:
        model["merges"] = [pair for pair in model["merges"] if names.keys().isdisjoint(_merged(pair))]
    if model.get("unk_token") in names:
        model["unk_token"] = names[model["unk_token"]]
    return {**fields, "added_tokens": added, "model": model, "truncation": None, "padding": None}


def _merged(pair: str | list[str]) -> tuple[str, ...]:
    """The tokens of a merge, and what it makes."""
    left, right = pair.split(" ", 1) if isinstance(pair, str) else pair
    return left, right, left + right


def _load(fields: dict[str, Any]) -> Tokenizer:
    try:
        return Tokenizer.from_str(json.dumps(fields))
    except Exception as error:  # the library raises nothing more precise
        raise ValueError(str(error)) from error
