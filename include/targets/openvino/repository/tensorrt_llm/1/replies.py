"""From the engine's tokens to Triton's responses."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import triton_python_backend_utils as pb_utils
from engine import EngineFailure
from hangups import Hangups
from text import Piece, Transcript

_CANCEL_CHECK_S = 0.25


Post = Callable[..., None]
"""Has a function called soon, with the arguments that follow it; what it is given is done in this order."""


class Outbox:
    """Threads that send responses, each of which Triton takes in a round trip."""

    def __init__(self, threads: int, on_failure: Callable[[], None]) -> None:
        """Without ``threads`` the engine's own thread sends.

        ``on_failure`` is called when a response cannot be sent, for which its client would wait for ever.
        """
        self._on_failure = on_failure
        self._lanes = [ThreadPoolExecutor(1, thread_name_prefix="outbox") for _ in range(threads)]
        self._next = itertools.cycle(self._lanes)

    def lane(self) -> Post:
        """One of the threads."""
        return partial(self._post, next(self._next)) if self._lanes else _at_once

    def close(self) -> None:
        """Waits until all is sent."""
        for lane in self._lanes:
            lane.shutdown()

    def _post(self, lane: Executor, work: Callable[..., Any], *arguments: Any) -> None:  # noqa: ANN401
        lane.submit(work, *arguments).add_done_callback(self._check)

    def _check(self, done: Future[Any]) -> None:
        if error := done.exception():
            pb_utils.Logger.log_error(f"a response cannot be sent: {error}")
            self._on_failure()


def _at_once(work: Callable[..., Any], *arguments: Any) -> None:  # noqa: ANN401
    work(*arguments)


@dataclass(frozen=True)
class Wishes:
    """The outputs that the responses of a request are to have; ``one_each``: each answer has responses of its own.

    That is upstream's way, but only a decoupled model may send more than one response to a request.
    """

    one_each: bool
    outputs: frozenset[str]
    pad_id: int


class Reply:
    """The responses to one Triton request: one when all its answers are whole, or one for each answer.

    With ``hangups`` each answer comes in pieces. ``post`` has them sent, and has it asked whether the client has gone.
    """

    def __init__(
        self,
        sender: pb_utils.InferenceResponseSender,
        post: Post,
        wishes: Wishes,
        disconnected: Callable[[], bool],
        hangups: Hangups | None = None,
    ) -> None:
        self._sender = sender
        self._post = post
        self._disconnected = disconnected
        self._wishes = wishes
        self._hangups = hangups
        self._stream = hangups.open() if hangups else 0
        self._answers: list[Answer] = []
        self._over = False
        self._sending = threading.Lock()
        self._asked_at = 0.0
        self._asking = False
        self._questioned = False

    @property
    def streams(self) -> bool:
        """Whether its answer is sent in pieces."""
        return bool(self._stream)

    def answer(self, prompt_len: int, transcript: Transcript) -> Answer:
        """One more answer that this reply waits for."""
        self._answers.append(Answer(self, len(self._answers), prompt_len, transcript))
        return self._answers[-1]

    def cancelled(self) -> bool:
        """Whether the client is known to have gone; has it asked four times a second at most.

        So does postprocessing, with a piece that has the stream's number.
        """
        now = time.monotonic()
        if not self._over and not self._questioned and now - self._asked_at > _CANCEL_CHECK_S:
            self._asked_at, self._asking, self._questioned = now, True, True
            self._post(self._ask)
        return self._over

    def _ask(self) -> None:
        self._questioned = False
        self.gone()

    def gone(self) -> bool:
        """Asks whether the client has gone: a round trip."""
        hung_up = self._hangups and self._hangups.hung_up(self._stream)
        if not self._over and (hung_up or self._disconnected() or self._sender.is_cancelled()):
            tokens = sum(answer.transcript.length for answer in self._answers)
            pb_utils.Logger.log_info(f"the client has gone: cancelled after {tokens} tokens")
            self.failed("cancelled", pb_utils.TritonError.CANCELLED)
        return self._over

    def progressed(self, answer: Answer) -> None:
        """Streams what ``answer`` has settled, unless its last piece still waits: then the next one has this, too."""
        if not self._over and not answer.waits and (piece := answer.transcript.take()):
            answer.waits = True
            self._post(self._show, answer, piece)

    def completed(self, answer: Answer) -> None:
        """Sends the rest of ``answer``, which is whole, or that of all answers once every one is."""
        self._post(self._complete, answer)

    def _show(self, answer: Answer, piece: Piece) -> None:
        with self._sending:
            if not self._over:
                self._send([(answer, piece)], final=False)
        answer.waits = False

    def _complete(self, answer: Answer) -> None:
        with self._sending:
            answer.whole = True
            if self._over:
                return
            final = all(one.whole for one in self._answers)
            if final or self._wishes.one_each:
                ended = [answer] if self._wishes.one_each else self._answers
                self._send([(one, one.transcript.rest()) for one in ended], final=final)
            if final:
                self._close()

    def broken(self, message: str) -> None:
        """Ends the reply with the engine's error, after what waits to be sent."""
        self._post(self.failed, message, pb_utils.TritonError.UNAVAILABLE)

    def failed(self, message: str, code: int) -> None:
        """Ends the reply with an error, at once."""
        with self._sending:
            if not self._over:
                response = pb_utils.InferenceResponse(error=pb_utils.TritonError(message, code))
                self._sender.send(response, flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
                self._close()

    def _close(self) -> None:
        self._over = True
        if self._hangups:
            self._hangups.close(self._stream)

    def _send(self, pieces: Sequence[tuple[Answer, Piece]], *, final: bool) -> None:
        flags = pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL if final else 0
        stream, self._asking = self._stream if self._asking else 0, False
        self._sender.send(pb_utils.InferenceResponse(self._tensors(pieces, stream)), flags=flags)

    def _tensors(self, sent: Sequence[tuple[Answer, Piece]], stream: int) -> list[pb_utils.Tensor]:
        """The outputs that are wished for: each costs time with every token."""
        pad, column = self._wishes.pad_id, partial(_column, len(sent))
        answers, pieces = [answer for answer, _ in sent], [piece for _, piece in sent]
        outputs: dict[str, Callable[[], npt.NDArray[Any]]] = {
            "output_ids": lambda: _padded([piece.ids for piece in pieces], pad)[:, np.newaxis, :],
            "sequence_length": lambda: column([len(piece.ids) for piece in pieces]),
            "context_ids": lambda: _padded([piece.context for piece in pieces], pad),
            "overhang": lambda: column([piece.overhang for piece in pieces]),
            "stream_number": lambda: column([stream] * len(pieces), np.int64),
            "batch_index": lambda: column([answer.row for answer in answers]),
            "sequence_index": lambda: column([0] * len(pieces)),
            "num_input_tokens": lambda: column([answer.prompt_len for answer in answers]),
            "num_output_tokens": lambda: column([piece.length for piece in pieces]),
        }
        return [pb_utils.Tensor(name, values()) for name, values in outputs.items() if name in self._wishes.outputs]


@dataclass
class Answer:
    """The answer to the prompt in ``row`` of a request, on its way; the engine's listener."""

    reply: Reply
    row: int
    prompt_len: int
    transcript: Transcript
    waits: bool = field(default=False)
    """Whether a piece of it is still to be sent."""
    whole: bool = field(default=False)

    @property
    def streams(self) -> bool:
        """Whether `show` sends anything."""
        return self.reply.streams

    def cancelled(self) -> bool:
        """Whether nobody waits any more."""
        return self.reply.cancelled()

    def tokens(self, token_ids: Sequence[int]) -> bool:
        """Takes the answer's next tokens; returns whether a stop word ends the answer with one of them."""
        return any(self.transcript.add(token_id) for token_id in token_ids)

    def show(self) -> None:
        """Sends what was taken since the last piece, if pieces are wanted."""
        if self.streams:
            self.reply.progressed(self)

    def end(self) -> None:
        """No token follows."""
        self.reply.completed(self)

    def fail(self, error: EngineFailure) -> None:
        """No token follows, and the answer is not whole."""
        self.reply.broken(str(error))


def _column(rows: int, values: Sequence[int], kind: type[np.integer[Any]] = np.int32) -> npt.NDArray[Any]:
    """One number a row, as Triton's [rows, 1] tensors."""
    return np.array(values, kind).reshape(rows, 1)


def _padded(rows: Sequence[Sequence[int]], value: int) -> npt.NDArray[np.int32]:
    width = max(len(row) for row in rows)
    padded = [[*row, *[value] * (width - len(row))] for row in rows]
    return np.array(padded, np.int32).reshape(len(rows), width)
