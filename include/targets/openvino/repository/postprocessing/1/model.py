"""Triton model `postprocessing`: the engine's token ids to text."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import struct
from pathlib import Path

import numpy as np
import triton_python_backend_utils as pb_utils
from tokenizers import Tokenizer


class TritonPythonModel:
    """What Triton's python backend loads and calls."""

    def initialize(self, args: dict[str, str]) -> None:
        """Loads the tokenizer; ``args["model_config"]`` is the filled config.pbtxt as JSON."""
        fields = json.loads(args["model_config"])["parameters"]
        folder = Path(fields["tokenizer_dir"]["string_value"])
        self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._hangups = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._hangups.setblocking(False)
        self._engine = f"\0hf2triton-hangups-{Path('/proc/self/ns/pid').stat().st_ino}-{os.getppid()}"
        self._skip = {"true": True, "false": False}[fields["skip_special_tokens"]["string_value"].lower()]

    def execute(self, requests: list[pb_utils.InferenceRequest]) -> list[pb_utils.InferenceResponse]:
        """One response a request, in their order."""
        return [self._respond(request) for request in requests]

    def _respond(self, request: pb_utils.InferenceRequest) -> pb_utils.InferenceResponse:
        tokens, lengths, contexts, overhangs, streams = (
            pb_utils.get_input_tensor_by_name(request, name).as_numpy()
            for name in ("TOKENS_BATCH", "SEQUENCE_LENGTH", "CONTEXT_IDS", "OVERHANG", "STREAM_NUMBER")
        )
        if (stream := streams[0, 0].item()) and request.is_cancelled():
            self._hang_up(stream)
        texts = [
            self._text(context.tolist(), row[0, : length[0]].tolist(), overhang[0])
            for row, length, context, overhang in zip(tokens, lengths, contexts, overhangs, strict=True)
        ]
        output = np.array([text.encode() for text in texts], dtype=np.object_)  # upstream's shape, without its beams
        return pb_utils.InferenceResponse([pb_utils.Tensor("OUTPUT", output)])

    def _hang_up(self, stream: int) -> None:
        """Tells the engine that nobody takes ``stream`` any more; see its hangups.py."""
        with contextlib.suppress(OSError):  # the next piece says it again
            self._hangups.sendto(struct.pack("<q", stream), self._engine)

    def _text(self, context: list[int], ids: list[int], overhang: int) -> str:
        """The text of ``ids`` where they follow ``context``, less its last ``overhang`` characters.

        A tokenizer may drop the space before the first token it decodes: only a text's first token may lose it.
        """
        known = len(self._decode(context))
        text = self._decode(context + ids)[known:]
        return text[: len(text) - overhang]

    def _decode(self, ids: list[int]) -> str:
        text: str = self._tokenizer.decode(ids, skip_special_tokens=self._skip)
        return text
