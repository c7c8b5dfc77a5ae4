"""Replies without a Triton: what is sent is kept, as the arrays by output."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator, Sequence
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
    """Triton, which keeps what it is sent; ``slow``: it takes nothing before `free` is set."""

    def __init__(self, *, slow: bool = False) -> None:
        self.sent: list[dict[str, Any]] = []
        self.asked = 0
        self.gone = False
        self.taking, self.free = threading.Event(), threading.Event()
        if not slow:
            self.free.set()

    def send(self, response: dict[str, Any], flags: int) -> None:
        self.taking.set()
        assert self.free.wait(60)
        self.sent.append(response)

    def is_cancelled(self) -> bool:
        self.asked += 1
        return self.gone


def at_once(work: Callable[..., None], *arguments: Any) -> None:
    work(*arguments)


@pytest.fixture
def replies(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    triton: Any = ModuleType("triton_python_backend_utils")
    triton.Tensor, triton.InferenceResponse = (lambda name, values: (name, values)), dict
    triton.TRITONSERVER_RESPONSE_COMPLETE_FINAL = 1
    triton.TritonError = type("TritonError", (), {"CANCELLED": 1, "UNAVAILABLE": 2, "__init__": lambda *given: None})
    triton.Logger = SimpleNamespace(log_info=print, log_error=print)
    monkeypatch.setitem(sys.modules, "triton_python_backend_utils", triton)
    import replies

    yield replies
    del sys.modules["replies"]


def streamed(replies: Any, sender: Sender, outputs: set[str], post: Callable[..., None] = at_once) -> Any:
    """An answer that is streamed as stream 7."""
    hangups = SimpleNamespace(open=lambda: 7, close=lambda stream: None, hung_up=lambda stream: False)
    wishes = replies.Wishes(one_each=True, outputs=frozenset(outputs), pad_id=0)
    reply = replies.Reply(sender, post, wishes, lambda: False, hangups)
    return reply.answer(3, Transcript(Letters(), StopWords()))  # type: ignore[arg-type]


def test_only_the_outputs_that_are_wished_for_are_made(replies: Any) -> None:
    sender = Sender()
    answer = streamed(replies, sender, {"output_ids", "sequence_length", "num_output_tokens"})
    answer.tokens([5])
    answer.show()
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
        answer.tokens([token])
        answer.show()
    assert [one["stream_number"].item() for one in sender.sent] == [7, 0, 0, 7, 0]
    assert sender.asked == 2


@pytest.fixture
def outbox(replies: Any) -> Iterator[Any]:
    failed: list[str] = []
    made = replies.Outbox(2, on_failure=lambda: failed.append("a response cannot be sent"))
    yield made
    made.close()
    assert not failed


def test_what_comes_while_a_piece_is_sent_is_in_the_next_one(replies: Any, outbox: Any) -> None:
    sender = Sender(slow=True)
    answer = streamed(replies, sender, {"output_ids"}, outbox.lane())
    for token in range(5):
        answer.tokens([token])
        answer.show()
    answer.end()
    assert not sender.sent
    sender.free.set()
    outbox.close()
    assert [one["output_ids"].flatten().tolist() for one in sender.sent] == [[0], [1, 2, 3, 4]]


def test_an_engine_that_fails_says_so_after_what_waits_to_be_sent(replies: Any, outbox: Any) -> None:
    sender = Sender(slow=True)
    answer = streamed(replies, sender, {"output_ids"}, outbox.lane())
    answer.tokens([5])
    answer.show()
    answer.fail(replies.EngineFailure("it is dead"))
    sender.free.set()
    outbox.close()
    assert [list(one) for one in sender.sent] == [["output_ids"], ["error"]]


def test_who_waits_for_its_turn_to_be_asked_is_asked_once(
    replies: Any, outbox: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    sender, times = Sender(slow=True), iter(range(100, 200))
    monkeypatch.setattr(replies, "time", SimpleNamespace(monotonic=lambda: next(times)))
    answer = streamed(replies, sender, {"output_ids"}, outbox.lane())
    answer.tokens([5])
    answer.show()
    for _ in range(5):
        assert not answer.cancelled()
    sender.free.set()
    outbox.close()
    assert sender.asked == 1


def test_a_client_that_is_slow_to_take_a_piece_holds_up_no_other(replies: Any, outbox: Any) -> None:
    slow, fast = Sender(slow=True), Sender()
    for sender in (slow, fast):
        answer = streamed(replies, sender, {"output_ids"}, outbox.lane())
        answer.tokens([5])
        answer.end()
    assert fast.taking.wait(60)
    assert not slow.sent
    slow.free.set()
    outbox.close()
    assert len(slow.sent) == len(fast.sent) == 1


def test_nothing_is_sent_to_a_client_that_has_gone(replies: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    triton, logged = sys.modules["triton_python_backend_utils"], list[str]()
    monkeypatch.setattr(triton, "Logger", SimpleNamespace(log_info=logged.append))
    sender = Sender()
    answer = streamed(replies, sender, {"output_ids"})
    answer.tokens([5])
    sender.gone = True
    assert answer.cancelled()
    answer.show()
    answer.end()
    assert [list(one) for one in sender.sent] == [["error"]]
    assert logged == ["the client has gone: cancelled after 1 tokens"]


def test_a_response_that_cannot_be_sent_ends_the_server(replies: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    triton, logged, ended = sys.modules["triton_python_backend_utils"], list[str](), threading.Event()
    monkeypatch.setattr(triton, "Logger", SimpleNamespace(log_error=logged.append))
    outbox, sender = replies.Outbox(1, on_failure=ended.set), Sender()
    monkeypatch.setattr(sender, "send", lambda response, flags: 1 / 0)
    answer = streamed(replies, sender, {"output_ids"}, outbox.lane())
    answer.tokens([5])
    answer.show()
    assert ended.wait(60)
    outbox.close()
    assert logged == ["a response cannot be sent: division by zero"]
