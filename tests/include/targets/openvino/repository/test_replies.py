"""Replies without a Triton: what is sent is kept, as the arrays by output."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from text import StopWords, Transcript

POSTPROCESSINGS = {"output_ids", "sequence_length", "context_ids", "overhang", "stream_number"}


class Letters:
    """A tokenizer for which each id is a letter."""

    def text(self, ids: Sequence[int]) -> str:
        return "x" * len(ids)

    def open_ended(self, last_id: int, text: str) -> bool:
        return False


class Sender:
    """Triton, which keeps what it is sent."""

    def __init__(self) -> None:
        self.sent: list[dict[str, Any]] = []
        self.asked = 0

    def send(self, response: dict[str, Any], flags: int) -> None:
        self.sent.append(response)

    def is_cancelled(self) -> bool:
        self.asked += 1
        return False


@pytest.fixture
def replies(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    triton: Any = ModuleType("triton_python_backend_utils")
    triton.Tensor, triton.InferenceResponse = (lambda name, values: (name, values)), dict
    triton.TRITONSERVER_RESPONSE_COMPLETE_FINAL = 1
    monkeypatch.setitem(sys.modules, "triton_python_backend_utils", triton)
    import replies

    yield replies
    del sys.modules["replies"]


def streamed(replies: Any, sender: Sender, outputs: set[str]) -> Any:
    """An answer that is streamed as stream 7."""
    hangups = SimpleNamespace(open=lambda: 7, close=lambda stream: None, hung_up=lambda stream: False)
    wishes = replies.Wishes(one_each=True, outputs=frozenset(outputs), pad_id=0)
    reply = replies.Reply(sender, wishes, lambda: False, hangups)
    return reply.answer(3, Transcript(Letters(), StopWords()))  # type: ignore[arg-type]


def test_only_the_outputs_that_are_wished_for_are_made(replies: Any) -> None:
    sender = Sender()
    answer = streamed(replies, sender, {"output_ids", "sequence_length", "num_output_tokens"})
    answer.token(5)
    answer.end()
    assert [set(one) for one in sender.sent] == [{"output_ids", "sequence_length", "num_output_tokens"}] * 2
    assert sender.sent[0]["output_ids"].tolist() == [[[5]]]
    assert [one["num_output_tokens"].tolist() for one in sender.sent] == [[[1]], [[0]]]


def test_who_has_gone_is_asked_at_intervals_and_with_the_next_piece(
    replies: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    times = iter([100.0, 100.1, 100.2, 100.3, 100.4])
    monkeypatch.setattr(replies, "time", SimpleNamespace(monotonic=lambda: next(times)))
    sender = Sender()
    answer = streamed(replies, sender, POSTPROCESSINGS)
    for token in range(5):
        assert not answer.cancelled()
        answer.token(token)
    assert [one["stream_number"].item() for one in sender.sent] == [7, 0, 0, 7, 0]
    assert sender.asked == 2
