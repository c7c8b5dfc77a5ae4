"""Text as the checkpoint's own tokenizer splits it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Hashable, Sequence
from itertools import takewhile
from pathlib import Path

TOKENIZER_FILE = "tokenizer.json"

Tokens = Sequence[Hashable]
Split = Callable[[str], Tokens]

_WORDS_AND_MARKS = re.compile(r"\w+|[^\w\s]")


def splitter(folder: Path | None) -> Split:
    """Text to token ids, without special tokens; words and marks where ``folder`` has no ``tokenizer.json``.

    White space at both ends is left out: some decoders keep an answer's first space, others do not.
    """
    path = folder / TOKENIZER_FILE if folder else None
    if path is None or not path.is_file():
        return _WORDS_AND_MARKS.findall
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(path))

    def ids(text: str) -> Tokens:
        return tuple(tokenizer.encode(text.strip(), add_special_tokens=False).ids)

    return ids


def special_texts(folder: Path | None) -> tuple[str, ...]:
    """The texts of the tokenizer's special tokens, such as the end token."""
    path = folder / TOKENIZER_FILE if folder else None
    if path is None or not path.is_file():
        return ()
    added = json.loads(path.read_text()).get("added_tokens", [])
    return tuple(token["content"] for token in added if token["special"])


def common_prefix(one: Tokens, other: Tokens) -> int:
    """The number of equal tokens at the start."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))
