"""From token ids to text, token by token, and where a text must end."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tokenizers import Tokenizer

_BYTE_TOKEN = re.compile(r"<0x[0-9A-F]{2}>")
_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


def near(path: str) -> Path:
    """The path, from the current folder on if it has accents: Triton's stub starts Python without a locale.

    The folder is then that of the repository, in the same store.
    """
    return Path(path if path.isascii() else os.path.relpath(os.fsdecode(path.encode())))


class Decoder:
    """The model's tokenizer, for decoding."""

    def __init__(self, tokenizer_dir: Path, skip_special_tokens: bool) -> None:
        self._tokenizer = Tokenizer.from_file(str(tokenizer_dir / "tokenizer.json"))
        self._skip = skip_special_tokens
        vocabulary = self._tokenizer.get_vocab()
        self._bytes = {token_id for token, token_id in vocabulary.items() if _BYTE_TOKEN.fullmatch(token)}

    def text(self, ids: Sequence[int]) -> str:
        """What postprocessing makes of ``ids``."""
        text: str = self._tokenizer.decode(list(ids), skip_special_tokens=self._skip)
        return text

    def word(self, ids: Sequence[int]) -> str:
        """The word that ``ids`` stand for, special tokens included."""
        word: str = self._tokenizer.decode(list(ids), skip_special_tokens=False)
        return word

    def open_ended(self, last_id: int, text: str) -> bool:
        """Whether the next token may change the end of ``text``, as in a character of several byte tokens."""
        return last_id in self._bytes or text.endswith(_REPLACEMENT)


@dataclass(frozen=True)
class StopWords:
    """What ends an answer: token sequences, and texts wherever the tokens split them.

    Upstream compares token sequences only, so "six" misses " six" and "sixty"; a text is found in all three.
    """

    sequences: tuple[tuple[int, ...], ...] = ()
    texts: tuple[str, ...] = ()

    @classmethod
    def of(cls, words: Sequence[Sequence[int]], decoder: Decoder) -> StopWords:
        """The stop words whose token ids are ``words``."""
        texts = (decoder.word(ids) for ids in words)
        return cls(tuple(tuple(ids) for ids in words), tuple(text for text in texts if text))

    def ends(self, ids: Sequence[int]) -> bool:
        """Whether ``ids`` end with one of the token sequences."""
        return any(tuple(ids[-len(stop) :]) == stop for stop in self.sequences)

    def end_in(self, text: str, start: int) -> int | None:
        """Where the first stop word that ends after ``start`` ends in ``text``."""
        ends = []
        for word in self.texts:
            found = text.find(word, max(0, start - len(word) + 1))
            if found >= 0:
                ends.append(found + len(word))
        return min(ends, default=None)


@dataclass(frozen=True)
class Piece:
    """Token ids to be decoded after ``context``; the text's last ``overhang`` characters follow a stop word.

    ``length``: how many of the ids are the answer's, not the prompt's.
    """

    context: tuple[int, ...]
    ids: tuple[int, ...]
    length: int
    overhang: int = 0


class Transcript:
    """An answer's token ids as they come, and its text as far as no later token can change it.

    Its pieces, each decoded after its context, joined, are the text of all its ids (the prompt's first, if given).
    """

    def __init__(self, decoder: Decoder, stop: StopWords, prompt: Sequence[int] = ()) -> None:
        self._decoder = decoder
        self._stop = stop
        self._prompt_len = len(prompt)
        self._ids = list(prompt)
        self._text = ""
        self._read_to = len(prompt)
        self._context, self._settled = 0, len(prompt)
        self._taken_context, self._taken = 0, 0
        self._overhang = 0

    @property
    def length(self) -> int:
        """Tokens of the answer, without the prompt's."""
        return len(self._ids) - self._prompt_len

    def add(self, token_id: int) -> bool:
        """Takes the answer's next id; returns whether a stop word ends the answer with it.

        Without stop words nothing is decoded before `take` asks for it.
        """
        self._ids.append(token_id)
        return bool(self._stop.sequences) and self._read()

    def take(self) -> Piece | None:
        """What has become certain since the last piece, if anything."""
        if self._read_to < len(self._ids):
            self._read()
        if self._settled == self._taken:
            return None
        piece = self._piece(self._settled)
        self._taken_context, self._taken = self._context, self._settled
        return piece

    def _read(self) -> bool:
        """Decodes up to the last id; returns whether a stop word ends the answer with it."""
        self._read_to = len(self._ids)
        known = self._decoder.text(self._ids[self._context : self._settled])
        window = self._decoder.text(self._ids[self._context :])
        text = self._text + window[len(known) :]
        end = self._stop.end_in(text, len(self._text))
        if end is not None:
            self._overhang = len(text) - end
            return True
        # A window without text would leave the next one to lose the space that starts it.
        if len(window) > len(known) and not self._decoder.open_ended(self._ids[-1], window):
            self._text, self._context, self._settled = text, self._settled, len(self._ids)
        return self._stop.ends(self._ids[self._prompt_len :])

    def rest(self) -> Piece:
        """All that was not taken yet, at the end of the answer."""
        return self._piece(len(self._ids))

    def _piece(self, end: int) -> Piece:
        context = tuple(self._ids[self._taken_context : self._taken])
        length = end - max(self._taken, self._prompt_len)
        return Piece(context, tuple(self._ids[self._taken : end]), length, self._overhang)
