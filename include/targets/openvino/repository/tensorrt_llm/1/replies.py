"""From the engine's tokens to Triton's responses."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import triton_python_backend_utils as pb_utils
from engine import EngineFailure
from hangups import Hangups
from text import Piece, Transcript

_CANCEL_CHECK_S = 0.1


@dataclass(frozen=True)
class Wishes:
    """What the responses of a request are to hold; ``one_each``: each answer has responses of its own, as upstream's.

    Only a decoupled model may send more than one response to a request.
    """

    one_each: bool
    num_input_tokens: bool
    num_output_tokens: bool
    pad_id: int


class Reply:
    """The responses to one Triton request: one when all its answers are whole, or one for each answer.

    With ``hangups`` each answer comes in pieces.
    """

    def __init__(
        self,
        sender: pb_utils.InferenceResponseSender,
        wishes: Wishes,
        disconnected: Callable[[], bool],
        hangups: Hangups | None = None,
    ) -> None:
        self._sender = sender
        self._disconnected = disconnected
        self._wishes = wishes
        self._hangups = hangups
        self._stream = hangups.open() if hangups else 0
        self._answers: list[Answer] = []
        self._over = False
        self._sending = threading.Lock()
        self._asked_at = 0.0

    @property
    def streams(self) -> bool:
        """Whether its answer is sent in pieces."""
        return bool(self._stream)

    def answer(self, prompt_len: int, transcript: Transcript) -> Answer:
        """One more answer that this reply waits for."""
        self._answers.append(Answer(self, len(self._answers), prompt_len, transcript))
        return self._answers[-1]

    def cancelled(self) -> bool:
        """Whether the client has gone; asks Triton ten times a second at most, for each question is a round trip."""
        now = time.monotonic()
        if not self._over and now - self._asked_at > _CANCEL_CHECK_S:
            self._asked_at = now
            hung_up = self._hangups and self._hangups.hung_up(self._stream)
            if hung_up or self._disconnected() or self._sender.is_cancelled():
                tokens = sum(answer.transcript.length for answer in self._answers)
                pb_utils.Logger.log_info(f"the client has gone: cancelled after {tokens} tokens")
                self.failed("cancelled", pb_utils.TritonError.CANCELLED)
        return self._over

    def progressed(self, answer: Answer) -> None:
        """Streams what ``answer`` has settled."""
        with self._sending:
            if not self._over and (piece := answer.transcript.take()):
                self._send([(answer, piece)], final=False)

    def completed(self, answer: Answer) -> None:
        """Sends the rest of ``answer``, which is whole, or that of all answers once every one is."""
        with self._sending:
            answer.whole = True  # under the lock, so that only one of several answers is the last
            if self._over:
                return
            final = all(one.whole for one in self._answers)
            if final or self._wishes.one_each:
                ended = [answer] if self._wishes.one_each else self._answers
                self._send([(one, one.transcript.rest()) for one in ended], final=final)
            if final:
                self._close()

    def failed(self, message: str, code: int) -> None:
        """Ends the reply with an error."""
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
        self._sender.send(pb_utils.InferenceResponse(self._tensors(pieces)), flags=flags)

    def _tensors(self, sent: Sequence[tuple[Answer, Piece]]) -> list[pb_utils.Tensor]:
        column = _Column(len(sent))
        answers, pieces = [answer for answer, _ in sent], [piece for _, piece in sent]
        ids = _padded([piece.ids for piece in pieces], self._wishes.pad_id)
        tensors = [
            pb_utils.Tensor("output_ids", ids[:, np.newaxis, :]),
            column.tensor("sequence_length", [len(piece.ids) for piece in pieces]),
            pb_utils.Tensor("context_ids", _padded([piece.context for piece in pieces], self._wishes.pad_id)),
            column.tensor("overhang", [piece.overhang for piece in pieces]),
            pb_utils.Tensor("stream_number", np.full((len(pieces), 1), self._stream, np.int64)),
            column.tensor("batch_index", [answer.row for answer in answers]),
            column.tensor("sequence_index", [0] * len(pieces)),
        ]
        if self._wishes.num_input_tokens:
            tensors.append(column.tensor("num_input_tokens", [answer.prompt_len for answer in answers]))
        if self._wishes.num_output_tokens:
            tensors.append(column.tensor("num_output_tokens", [piece.length for piece in pieces]))
        return tensors


@dataclass
class Answer:
    """The answer to the prompt in ``row`` of a request, on its way; the engine's listener."""

    reply: Reply
    row: int
    prompt_len: int
    transcript: Transcript
    whole: bool = field(default=False)

    @property
    def streams(self) -> bool:
        """Whether `show` sends anything."""
        return self.reply.streams

    def cancelled(self) -> bool:
        """Whether nobody waits any more."""
        return self.reply.cancelled()

    def token(self, token_id: int) -> bool:
        """Takes the answer's next token and streams it; returns whether a stop word ends the answer with it."""
        if self.tokens([token_id]):
            return True
        self.show()
        return False

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
        self.reply.failed(str(error), pb_utils.TritonError.UNAVAILABLE)


@dataclass(frozen=True)
class _Column:
    """One number a row, as Triton's [rows, 1] tensors."""

    rows: int

    def tensor(self, name: str, values: Sequence[int]) -> pb_utils.Tensor:
        return pb_utils.Tensor(name, np.array(values, np.int32).reshape(self.rows, 1))


def _padded(rows: Sequence[Sequence[int]], value: int) -> npt.NDArray[np.int32]:
    width = max(len(row) for row in rows)
    padded = [[*row, *[value] * (width - len(row))] for row in rows]
    return np.array(padded, np.int32).reshape(len(rows), width)
