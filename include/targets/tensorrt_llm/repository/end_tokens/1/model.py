"""Triton model `end_tokens`: a request's stop words, and the model's end tokens but the one that the engine is told.

The engine takes one ``end_id`` and no defaults, so the others reach it as stop words of one token.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    """What Triton's python backend loads and calls."""

    def initialize(self, args: dict[str, str]) -> None:
        """Reads the end tokens; ``args["model_config"]`` is the filled config.pbtxt as JSON."""
        parameters = json.loads(args["model_config"])["parameters"]
        self._end_ids = tuple(map(int, parameters["end_ids"]["string_value"].split()))

    def execute(self, requests: list[pb_utils.InferenceRequest]) -> list[pb_utils.InferenceResponse]:
        """One response a request, in their order."""
        return [self._respond(request) for request in requests]

    def _respond(self, request: pb_utils.InferenceRequest) -> pb_utils.InferenceResponse:
        words, ends = (
            pb_utils.get_input_tensor_by_name(request, name).as_numpy() for name in ("STOP_WORDS_IDS", "END_ID")
        )
        added = with_ends(words, ends.ravel().tolist(), self._end_ids)
        return pb_utils.InferenceResponse([pb_utils.Tensor("STOP_WORDS_AND_ENDS", added)])


def with_ends(words: npt.NDArray[np.int32], asked: Sequence[int], end_ids: Sequence[int]) -> npt.NDArray[np.int32]:
    """The words of each row, with the ``end_ids`` that the ``asked`` one stands for.

    One of the model's end tokens stands for all of them, another token, or -1, for itself alone. Words are upstream's
    [rows, 2, width]: the ids of all words, padded with 0, and where each word ends, padded with -1.
    """
    rows = [
        _row(flat, ends, [one for one in end_ids if one != end] if end in end_ids else [])
        for (flat, ends), end in zip(words.tolist(), asked, strict=True)
    ]
    width = max((len(flat) for flat, _ in rows), default=0)
    padded = [(flat + [0] * (width - len(flat)), ends + [-1] * (width - len(ends))) for flat, ends in rows]
    return np.array(padded, np.int32).reshape(len(rows), 2, width)


def _row(flat: list[int], ends: list[int], further: list[int]) -> tuple[list[int], list[int]]:
    ends = [one for one in ends if one > 0]
    flat = flat[: ends[-1] if ends else 0]
    return flat + further, ends + [len(flat) + count for count in range(1, len(further) + 1)]
