"""Triton model `preprocessing`: prompts and words to the token ids that the engine takes."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import triton_python_backend_utils as pb_utils
from transformers import AutoTokenizer  # noqa: TID253 - runs in the target's environment only


class InvalidRequest(Exception):
    """The client's fault: only this request fails, with HTTP 400."""


# No text that a model is asked has more characters a token; to count the tokens of one that has takes seconds.
_CHARACTERS_A_TOKEN = 16
_MOST_NAMED = 8
_MAX_WORDS = 64
_MAX_WORDS_CHARACTERS = 4096


@dataclass(frozen=True)
class Limits:
    """Token limits: of a prompt, and of prompt and answer together."""

    max_input_len: int
    max_seq_len: int

    def check_text(self, text: str, max_tokens: int) -> None:
        """Raises `InvalidRequest` for what need not be tokenized to know that the engine could not hold it."""
        most = _CHARACTERS_A_TOKEN * self.max_input_len
        if len(text) > most:
            raise InvalidRequest(
                f"text_input has {len(text)} characters, more than the {most} of this engine's "
                f"max_input_len {self.max_input_len}"
            )
        if max_tokens < 1:
            raise InvalidRequest(f"max_tokens must be at least 1, got {max_tokens}")

    def check(self, prompt_len: int, max_tokens: int) -> None:
        """Raises `InvalidRequest` for what the engine could not hold."""
        if prompt_len == 0:
            raise InvalidRequest("text_input has no tokens")
        if prompt_len > self.max_input_len:
            raise InvalidRequest(
                f"text_input has {prompt_len} tokens, more than this engine's max_input_len {self.max_input_len}"
            )
        if prompt_len + max_tokens > self.max_seq_len:
            raise InvalidRequest(
                f"text_input's {prompt_len} tokens and max_tokens {max_tokens} together exceed "
                f"this engine's max_seq_len {self.max_seq_len}"
            )


class TritonPythonModel:
    """What Triton's python backend loads and calls."""

    def initialize(self, args: dict[str, str]) -> None:
        """Loads the tokenizer; ``args["model_config"]`` is the filled config.pbtxt as JSON."""
        fields = json.loads(args["model_config"])["parameters"]
        values = {key: field["string_value"] for key, field in fields.items()}
        self._tokenizer = AutoTokenizer.from_pretrained(near(values["tokenizer_dir"]))
        self._special = _flag(values["add_special_tokens"])
        self._chat = _flag(values["apply_chat_template"]) and bool(self._tokenizer.chat_template)
        self._limits = Limits(int(values["max_input_len"]), int(values["max_seq_len"]))
        # The engine, too, knows all tokens that end an answer: any of them stands for all.
        self._end_id = next(map(int, values["end_ids"].split()), _or(self._tokenizer.eos_token_id, -1))
        self._pad_id = _or(self._tokenizer.pad_token_id, max(self._end_id, 0))

    def execute(self, requests: list[pb_utils.InferenceRequest]) -> list[pb_utils.InferenceResponse]:
        """One response a request, in their order."""
        return [self._respond(request) for request in requests]

    def _respond(self, request: pb_utils.InferenceRequest) -> pb_utils.InferenceResponse:
        try:
            refuse_unknown_parameters(request)
            return pb_utils.InferenceResponse(self._tensors(request))
        except (InvalidRequest, UnicodeDecodeError) as error:
            return pb_utils.InferenceResponse(error=pb_utils.TritonError(str(error), pb_utils.TritonError.INVALID_ARG))

    def _tensors(self, request: pb_utils.InferenceRequest) -> list[pb_utils.Tensor]:
        texts = [row[0].decode() for row in _required(request, "QUERY")]
        max_tokens = _required(request, "REQUEST_OUTPUT_LEN")
        for text, row in zip(texts, max_tokens, strict=True):
            self._limits.check_text(text, int(row[0]))
        raw = _array(request, "USE_RAW_PROMPT")
        flags = [False] * len(texts) if raw is None else raw.ravel().tolist()
        prompts = [self._prompt(text, raw=flag) for text, flag in zip(texts, flags, strict=True)]
        for ids, row in zip(prompts, max_tokens, strict=True):
            self._limits.check(len(ids), int(row[0]))
        size = len(prompts)
        return [
            pb_utils.Tensor("INPUT_ID", padded(prompts, self._pad_id)),
            pb_utils.Tensor("REQUEST_INPUT_LEN", np.array([[len(ids)] for ids in prompts], np.int32)),
            pb_utils.Tensor("REQUEST_OUTPUT_LEN", max_tokens.astype(np.int32)),
            pb_utils.Tensor("BAD_WORDS_IDS", self._words(request, "BAD_WORDS_DICT", size)),
            pb_utils.Tensor("STOP_WORDS_IDS", self._words(request, "STOP_WORDS_DICT", size)),
            pb_utils.Tensor("OUT_END_ID", self._id(request, "END_ID", self._end_id, size)),
            pb_utils.Tensor("OUT_PAD_ID", self._id(request, "PAD_ID", self._pad_id, size)),
        ]

    def _prompt(self, text: str, *, raw: bool) -> list[int]:
        """The prompt's ids. A raw one is in the model's template already, with the special tokens that it has."""
        if raw or not self._chat:
            return self._encode(text, special=self._special and not raw)
        ids: list[int] = self._tokenizer.apply_chat_template(
            [{"role": "user", "content": text}], add_generation_prompt=True, return_dict=False
        )
        return ids

    def _encode(self, text: str, *, special: bool) -> list[int]:
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=special)
        return ids

    def _words(self, request: pb_utils.InferenceRequest, name: str, size: int) -> npt.NDArray[np.int32]:
        rows = _array(request, name)
        if rows is None:
            return np.empty((size, 2, 0), np.int32)
        words = [[word.decode() for word in row] for row in rows]
        for row in words:
            check_words(row, name.removesuffix("_DICT").lower())
        return word_lists([[self._encode(word, special=False) for word in row] for row in words])

    def _id(self, request: pb_utils.InferenceRequest, name: str, default: int, size: int) -> npt.NDArray[np.int32]:
        given = _array(request, name)
        return np.full((size, 1), default, np.int32) if given is None else given.astype(np.int32)


def near(path: str) -> Path:
    """The path, from the current folder on if it has accents: Triton's stub starts Python without a locale.

    The folder is then that of the repository, in the same store.
    """
    return Path(path if path.isascii() else os.path.relpath(os.fsdecode(path.encode())))


def check_words(words: list[str], name: str) -> None:
    """Raises `InvalidRequest` for too many words, or too long ones; ``name`` is the input's."""
    if len(words) > _MAX_WORDS:
        raise InvalidRequest(f"{name} has {len(words)} words, the most are {_MAX_WORDS}")
    if (length := sum(map(len, words))) > _MAX_WORDS_CHARACTERS:
        raise InvalidRequest(f"{name} has {length} characters, the most are {_MAX_WORDS_CHARACTERS}")


def word_lists(rows: list[list[list[int]]]) -> npt.NDArray[np.int32]:
    """Words as upstream passes them: [rows, 2, width], the ids one after another and where each word ends.

    Ids are padded with 0 and ends with -1; a word without tokens, as in ``[""]``, is no word.
    """
    words = [[ids for ids in row if ids] for row in rows]
    flat = [[token for ids in row for token in ids] for row in words]
    ends = [list(accumulate(len(ids) for ids in row)) for row in words]
    return np.stack([padded(flat, 0), _widened(padded(ends, -1), flat)], axis=1)


def padded(rows: list[list[int]], value: int) -> npt.NDArray[np.int32]:
    """Rows of different lengths as one array, at least one wide."""
    width = max(1, *(len(row) for row in rows))
    return np.array([row + [value] * (width - len(row)) for row in rows], np.int32)


def _widened(ends: npt.NDArray[np.int32], flat: list[list[int]]) -> npt.NDArray[np.int32]:
    width = max(1, *(len(row) for row in flat))
    return np.pad(ends, ((0, 0), (0, width - ends.shape[1])), constant_values=-1)


def refuse_unknown_parameters(request: pb_utils.InferenceRequest) -> None:
    """Raises `InvalidRequest` for options that no input of the ensemble is named after.

    Triton's generate endpoints turn those into request parameters, which no model would look at.
    """
    parameters = json.loads(request.parameters() or "{}")
    unknown = sorted(name for name in parameters if not name.startswith("triton_"))
    if unknown:
        more = f" and {len(unknown) - _MOST_NAMED} more" if len(unknown) > _MOST_NAMED else ""
        raise InvalidRequest(f"not supported by this engine: {', '.join(unknown[:_MOST_NAMED])}{more}")


def _array(request: pb_utils.InferenceRequest, name: str) -> npt.NDArray[Any] | None:
    tensor = pb_utils.get_input_tensor_by_name(request, name)
    return None if tensor is None else tensor.as_numpy()


def _required(request: pb_utils.InferenceRequest, name: str) -> npt.NDArray[Any]:
    return pb_utils.get_input_tensor_by_name(request, name).as_numpy()


def _flag(value: str) -> bool:
    return {"true": True, "false": False}[value.lower()]


def _or(token_id: int | None, default: int) -> int:
    return default if token_id is None else token_id
