"""vLLM's asynchronous engine, for all requests, in a thread with a loop of its own."""

from __future__ import annotations

import asyncio
import itertools
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, cast

SENDERS = 4
"""Threads that send responses meanwhile: vLLM's other answers need not wait for the round trips of one."""
_CHECK_S = 0.1
_PIECES_PER_S = 2000
"""What postprocessing, which decodes one piece after the other, can take of all streams together."""


class EngineFailure(Exception):
    """The engine cannot finish, or not take, an answer; it is not the request's fault."""


class Listener(Protocol):
    """Who waits for an answer. All methods are called from the engine's thread, and none of them waits."""

    streams: bool

    def cancelled(self) -> bool:
        """Whether nobody waits any more."""

    def tokens(self, token_ids: Sequence[int]) -> bool:
        """Takes the answer's next tokens; returns whether the answer ends with one of them."""

    def show(self) -> None:
        """Streams what was taken since the last piece."""

    def end(self) -> None:
        """No token follows."""

    def fail(self, error: EngineFailure) -> None:
        """No token follows, and the answer is not whole."""


@dataclass(frozen=True)
class Task:
    """A prompt's token ids and what to do with them; ``config`` are vLLM's ``SamplingParams``."""

    ids: Sequence[int]
    config: Any
    listener: Listener


class Engine:
    """Passes each answer's tokens on as vLLM makes them, and watches over vLLM's core, a process of its own."""

    def __init__(self, start: Callable[[], Any], max_queue_size: int, on_failure: Callable[[], None]) -> None:
        """``start`` makes vLLM's ``AsyncLLM``. ``max_queue_size``: prompts in flight beyond which `submit` refuses.

        ``on_failure`` is called, once all in flight have failed, when the engine cannot go on.
        """
        self._limit = max_queue_size
        self._on_failure = on_failure
        self._numbers = itertools.count()
        self._lock = threading.Lock()
        self._in_flight = 0
        self._running: dict[asyncio.Task[None], Listener] = {}
        self._failure: EngineFailure | None = None
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="engine", daemon=True)
        self._thread.start()
        self._llm = asyncio.run_coroutine_threadsafe(_called(start), self._loop).result()
        self._watcher = asyncio.run_coroutine_threadsafe(self._watch(), self._loop)

    def submit(self, tasks: Sequence[Task]) -> None:
        """Starts ``tasks``. Raises `EngineFailure` if the engine is full, failed or closed."""
        with self._lock:
            if self._failure:
                raise self._failure
            if self._in_flight + len(tasks) > self._limit:
                raise EngineFailure(f"the engine is full: {self._limit} prompts in flight")
            self._in_flight += len(tasks)
        for task in tasks:
            asyncio.run_coroutine_threadsafe(self._answer(task), self._loop)

    def close(self) -> None:
        """Fails what is in flight and ends vLLM and the thread."""
        self._watcher.cancel()
        asyncio.run_coroutine_threadsafe(self._give_up("the engine is shutting down"), self._loop).result()
        self._llm.shutdown()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    async def _answer(self, task: Task) -> None:
        current = cast("asyncio.Task[None]", asyncio.current_task())
        self._running[current] = task.listener
        try:
            await self._pass_on(task)
        except asyncio.CancelledError:
            task.listener.fail(self._failure or EngineFailure("cancelled"))
        except Exception as error:  # vLLM's own exceptions have no common class
            task.listener.fail(EngineFailure(f"the engine failed: {error}"))
        finally:
            del self._running[current]
            with self._lock:
                self._in_flight -= 1

    async def _pass_on(self, task: Task) -> None:
        stream = self._llm.generate({"prompt_token_ids": list(task.ids)}, task.config, str(next(self._numbers)))
        next_piece = 0.0
        async for output in stream:
            answer = output.outputs[0]
            if answer.finish_reason not in (None, "stop", "length"):
                raise EngineFailure(answer.finish_reason)
            # vLLM gives the end token, too, which is not the answer's.
            ids = answer.token_ids[:-1] if answer.finish_reason == "stop" else answer.token_ids
            if task.listener.tokens(ids):
                await stream.aclose()  # and vLLM stops working on it
                break
            if task.listener.streams and (now := time.monotonic()) >= next_piece:
                next_piece = now + len(self._running) / _PIECES_PER_S
                task.listener.show()
        task.listener.end()

    async def _watch(self) -> None:
        """Ends answers that nobody waits for, and the engine once vLLM's core is dead."""
        while True:
            await asyncio.sleep(_CHECK_S)
            for running, listener in list(self._running.items()):
                if listener.cancelled():
                    running.cancel()
            try:
                await self._llm.check_health()
            except Exception as error:
                await self._give_up(f"the engine failed: {error}")
                self._on_failure()
                return

    async def _give_up(self, reason: str) -> None:
        with self._lock:
            self._failure = EngineFailure(reason)
        running = list(self._running)
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)


async def _called(start: Callable[[], Any]) -> Any:  # noqa: ANN401
    return start()
