"""From the engine's tokens to the pieces of an answer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Collection, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Literal

from include.live.api.engine import Engine, Job
from include.live.api.models import LiveModel
from include.live.api.tools import Call, Calls, ToolForm, overlap
from include.live.api.vocabulary import Decoder

Finish = Literal["stop", "length", "tool_calls"]


@dataclass(frozen=True)
class Piece:
    """A part of an answer; ``tokens`` is the number of tokens so far, ``finish`` is given with the last."""

    index: int
    text: str
    tokens: int
    finish: Finish | None = None
    calls: tuple[Call, ...] = ()


class StopStrings:
    """The text of an answer before the first stop string, wherever tokens divide it."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = list(stops)
        self._held = ""
        self.found = False

    def feed(self, text: str) -> str:
        """The text that is certainly before a stop string."""
        self._held += text
        found = [at for at in map(self._held.find, self._stops) if at >= 0]
        self.found = bool(found)
        end = min(found) if found else len(self._held) - overlap(self._held, self._stops)
        text, self._held = self._held[:end], "" if found else self._held[end:]
        return text

    def finish(self) -> str:
        """What was held back, because a stop string might have begun with it."""
        return self._held


@dataclass
class Answer:
    """One answer: of the job at place ``index`` of a request."""

    index: int
    job: Job
    decoder: Decoder
    ends: Collection[int]
    stops: Sequence[str] = ()
    tools: ToolForm | None = None

    async def pieces(self, engine: Engine, model: LiveModel) -> AsyncGenerator[Piece, None]:
        """The pieces as they come, the last with the reason of its end. Closing it stops the engine's work."""
        stop, calls, count = StopStrings(self.stops), Calls(self.tools), 0
        ended = False
        async with aclosing(engine.generate(model, self.job)) as tokens:  # type: ignore[type-var]
            async for some in tokens:
                text = ""
                for token in some:
                    if ended or stop.found:
                        break
                    count += 1
                    ended = token in self.ends
                    text += stop.feed("" if ended else self.decoder.step(token))
                yield Piece(self.index, calls.feed(text), count)
                if stop.found:
                    break
        rest, called = self._rest(stop, calls)
        finish: Finish = "stop" if ended or stop.found or count < self.job.max_tokens else "length"
        yield Piece(self.index, rest, count, "tool_calls" if called and finish == "stop" else finish, called)

    def _rest(self, stop: StopStrings, calls: Calls) -> tuple[str, tuple[Call, ...]]:
        text = calls.feed(stop.finish())
        rest, called = calls.finish()
        return text + rest, tuple(called)


async def together(answers: Sequence[Answer], engine: Engine, model: LiveModel) -> AsyncGenerator[Piece, None]:
    """The pieces of several answers, which are made at once. Closing it ends all of them, and so does a failure."""
    queue: asyncio.Queue[Piece | Exception | None] = asyncio.Queue()

    async def put(answer: Answer) -> None:
        try:
            async with aclosing(answer.pieces(engine, model)) as pieces:
                async for piece in pieces:
                    queue.put_nowait(piece)
            queue.put_nowait(None)
        except Exception as error:  # raised where the pieces are taken
            queue.put_nowait(error)

    tasks = [asyncio.create_task(put(answer)) for answer in answers]
    try:
        left = len(tasks)
        while left:
            piece = await queue.get()
            if isinstance(piece, Exception):
                raise piece
            if piece is None:
                left -= 1
            else:
                yield piece
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
