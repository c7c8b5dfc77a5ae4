"""The bodies of answers, whole and in pieces, in OpenAI's form."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from include.live.api.answers import Piece
from include.live.api.models import LiveModel
from include.live.api.tools import Call

Kind = Literal["chat", "completion"]

_OBJECTS = {"chat": ("chat.completion", "chat.completion.chunk"), "completion": ("text_completion", "text_completion")}
_PREFIXES = {"chat": "chatcmpl", "completion": "cmpl"}
DONE = "data: [DONE]\n\n"


@dataclass(frozen=True)
class Reply:
    """The answer to one request: its id, and what all its parts have in common."""

    kind: Kind
    model: LiveModel
    prompt_tokens: int
    id: str = field(default_factory=lambda: secrets.token_hex(16))
    created: int = field(default_factory=lambda: int(time.time()))

    def whole(self, pieces: Sequence[Piece]) -> dict[str, Any]:
        """The answer at once."""
        indices = sorted({piece.index for piece in pieces})
        choices = [self._choice([piece for piece in pieces if piece.index == index]) for index in indices]
        return {**self._head(0), "choices": choices, "usage": self.usage_of(pieces)}

    def begin(self) -> dict[str, Any]:
        """The first chunk of a chat's stream: who speaks."""
        return self._chunk(0, {"delta": {"role": "assistant", "content": "", "refusal": None}}, None)

    def chunk(self, piece: Piece) -> dict[str, Any]:
        """One chunk of a stream."""
        if self.kind == "completion":
            return self._chunk(piece.index, {"text": piece.text}, piece.finish)
        delta: dict[str, Any] = {"content": piece.text} if piece.text or not piece.finish else {}
        if piece.calls:
            delta["tool_calls"] = [{"index": number, **_call(call)} for number, call in enumerate(piece.calls)]
        return self._chunk(piece.index, {"delta": delta}, piece.finish)

    def usage(self, pieces: Iterable[Piece]) -> dict[str, Any]:
        """The chunk after the last, if a stream is to have its usage."""
        return {**self._head(1), "choices": [], "usage": self.usage_of(pieces)}

    def _choice(self, pieces: Sequence[Piece]) -> dict[str, Any]:
        text, last = "".join(piece.text for piece in pieces), pieces[-1]
        end = {"logprobs": None, "finish_reason": last.finish}
        if self.kind == "completion":
            return {"index": last.index, "text": text, **end}
        message: dict[str, Any] = {"role": "assistant", "content": text, "refusal": None}
        if last.calls:
            message |= {"content": text or None, "tool_calls": [_call(call) for call in last.calls]}
        return {"index": last.index, "message": message, **end}

    def _chunk(self, index: int, what: dict[str, Any], finish: str | None) -> dict[str, Any]:
        return {**self._head(1), "choices": [{"index": index, **what, "logprobs": None, "finish_reason": finish}]}

    def _head(self, form: int) -> dict[str, Any]:
        return {
            "id": f"{_PREFIXES[self.kind]}-{self.id}",
            "object": _OBJECTS[self.kind][form],
            "created": self.created,
            "model": self.model.name,
            "system_fingerprint": self.model.release,
        }

    def usage_of(self, pieces: Iterable[Piece]) -> dict[str, int]:
        """The tokens of prompt and answer; each choice counts by its latest piece."""
        counts = {piece.index: piece.tokens for piece in pieces}
        answered = sum(counts.values())
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": answered,
            "total_tokens": self.prompt_tokens + answered,
        }


def event(body: dict[str, Any]) -> str:
    """A server-sent event."""
    return f"data: {json.dumps(body, ensure_ascii=False)}\n\n"


def described(model: LiveModel) -> dict[str, Any]:
    """A model as GET /v1/models lists it."""
    return {
        "id": model.name,
        "object": "model",
        "created": int(model.created.timestamp()),
        "owned_by": "hf2triton",
        "release": model.release,
        "aliases": list(model.aliases),
        "max_model_len": model.max_seq_len,
    }


def _call(call: Call) -> dict[str, Any]:
    return {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
