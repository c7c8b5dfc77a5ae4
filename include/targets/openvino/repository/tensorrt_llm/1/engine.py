"""One thread that runs OpenVINO GenAI's continuous batching for all requests."""

from __future__ import annotations

import itertools
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import openvino as ov  # noqa: TID253 - runs in the target's environment only
import openvino_genai as genai

SENDERS = 0
"""GenAI keeps Python's interpreter lock while it steps: what another thread is to send would wait for its end."""


class EngineFailure(Exception):
    """The engine cannot finish, or not take, an answer; it is not the request's fault."""


class Listener(Protocol):
    """Who waits for an answer. All methods are called from the engine's thread."""

    def cancelled(self) -> bool:
        """Whether nobody waits any more."""

    def tokens(self, token_ids: Sequence[int]) -> bool:
        """Takes the answer's next tokens; returns whether the answer ends with one of them."""

    def show(self) -> None:
        """Streams what was taken since the last piece, if pieces are wanted."""

    def end(self) -> None:
        """No token follows."""

    def fail(self, error: EngineFailure) -> None:
        """No token follows, and the answer is not whole."""


@dataclass(frozen=True)
class Task:
    """A prompt's token ids and what to do with them."""

    ids: Sequence[int]
    config: genai.GenerationConfig
    listener: Listener


class Engine:
    """Steps the pipeline while there are requests; each step adds a token to every running answer."""

    def __init__(
        self, pipeline: genai.ContinuousBatchingPipeline, max_queue_size: int, on_failure: Callable[[], None]
    ) -> None:
        """``max_queue_size``: prompts in flight beyond which `submit` refuses. ``on_failure`` is called, once all
        in flight have failed, when the engine cannot go on.
        """
        self._pipeline = pipeline
        self._limit = max_queue_size
        self._on_failure = on_failure
        self._numbers = itertools.count()
        self._waiting: deque[Task] = deque()
        self._running: dict[int, tuple[genai.GenerationHandle, Listener]] = {}
        self._changed = threading.Condition()
        self._closing = False
        self._failure: EngineFailure | None = None
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()

    def submit(self, tasks: Sequence[Task]) -> None:
        """Starts ``tasks`` with the next step. Raises `EngineFailure` if the engine is full, failed or closed."""
        with self._changed:
            if self._failure:
                raise self._failure
            in_flight = len(self._waiting) + len(self._running) + len(tasks)
            if in_flight > self._limit:
                raise EngineFailure(f"the engine is full: {self._limit} prompts in flight")
            self._waiting.extend(tasks)
            self._changed.notify()

    def close(self) -> None:
        """Fails what is in flight and ends the thread."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join()

    def _run(self) -> None:
        reason = "the engine failed"
        try:
            while self._admit():
                self._pipeline.step()
                self._deliver()
            reason = "the engine is shutting down"
        except RuntimeError as error:  # GenAI's C++ exceptions
            reason = f"the engine failed: {error}"
        finally:
            self._fail_all(EngineFailure(reason))
            if not self._closing:
                self._on_failure()

    def _admit(self) -> bool:
        """Hands waiting tasks to the pipeline; blocks while there is nothing to do. False when closing."""
        with self._changed:
            self._changed.wait_for(self._has_work)
            if self._closing:
                return False
            tasks, self._waiting = self._waiting, deque()
            for task in tasks:
                number = next(self._numbers)
                ids = ov.Tensor(np.array([task.ids], np.int64))
                self._running[number] = (self._pipeline.add_request(number, ids, task.config), task.listener)
        return True

    def _has_work(self) -> bool:
        return self._closing or bool(self._waiting) or self._pipeline.has_non_finished_requests()

    def _deliver(self) -> None:
        for number, (handle, listener) in list(self._running.items()):
            if _advance(handle, listener):
                with self._changed:
                    del self._running[number]

    def _fail_all(self, failure: EngineFailure) -> None:
        with self._changed:
            self._failure = failure
            listeners = [listener for _, listener in self._running.values()]
            listeners += [task.listener for task in self._waiting]
            self._running.clear()
            self._waiting.clear()
        for listener in listeners:
            listener.fail(failure)


def _advance(handle: genai.GenerationHandle, listener: Listener) -> bool:
    """Passes new tokens on; returns whether the answer is over."""
    if listener.cancelled():
        handle.cancel()
        listener.fail(EngineFailure("cancelled"))
        return True
    while handle.can_read():
        if listener.tokens(_new_tokens(handle)):
            handle.stop()
            listener.end()
            return True
        listener.show()
    return _settle(handle.get_status(), listener)


def _new_tokens(handle: genai.GenerationHandle) -> list[int]:
    """The ids since the last read, without the end token; none where the pipeline had to give the request up."""
    ids: list[int] = []
    for output in handle.read().values():
        ended = output.finish_reason == genai.GenerationFinishReason.STOP
        ids += output.generated_ids[:-1] if ended else output.generated_ids
    return ids


def _settle(status: genai.GenerationStatus, listener: Listener) -> bool:
    if status == genai.GenerationStatus.RUNNING:
        return False
    if status == genai.GenerationStatus.FINISHED:
        listener.end()
    else:
        listener.fail(EngineFailure("the KV cache is too small for this request and those beside it"))
    return True
