"""A model's chat template, rendered by a process of its own (see `include.live.api.render`)."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import weakref
from http import HTTPStatus
from subprocess import PIPE, Popen
from threading import Lock, Timer
from typing import Any

from include.live.api.failures import ApiError, invalid
from include.settings import PROJECT

_LIMIT_S = 5.0
_PASSED = ("LANG", "LC_ALL", "TZ")


class ChatTemplate:
    """One template; its process starts with the first text, and ends with this object."""

    def __init__(self, source: str, limit_s: float = _LIMIT_S) -> None:
        self.source = source
        self._limit_s = limit_s
        self._turn = asyncio.Lock()  # so that those who wait take no threads
        self._lock = Lock()
        self._process: Popen[bytes] | None = None

    async def render(self, variables: dict[str, Any]) -> str:
        """The text for these variables; raises `ApiError` if the template refuses them, or does not come to an end."""
        async with self._turn:
            answer = await asyncio.to_thread(self._ask, variables)
        if "error" in answer:
            raise invalid(f"the model's chat template refuses these messages: {answer['error']}", "messages")
        return str(answer["text"])

    def _ask(self, variables: dict[str, Any]) -> dict[str, Any]:
        with self._lock:
            process = self._process or self._start()
            timer = Timer(self._limit_s, process.kill)
            timer.start()
            try:
                _write(process, variables)
                answer: dict[str, Any] = json.loads(process.stdout.readline() if process.stdout else b"")
                return answer
            except (OSError, ValueError) as error:
                self._end()
                self._process = None
                said = f"the model's chat template did not give a text within {self._limit_s:g} s and 1 GiB"
                raise ApiError(HTTPStatus.INTERNAL_SERVER_ERROR, said) from error
            finally:
                timer.cancel()

    def _start(self) -> Popen[bytes]:
        process = subprocess.Popen(
            [sys.executable, "-m", "include.live.api.render"],
            stdin=PIPE,
            stdout=PIPE,
            cwd="/",
            env={**{name: os.environ[name] for name in _PASSED if name in os.environ}, "PYTHONPATH": str(PROJECT)},
        )
        self._process = process
        self._end = weakref.finalize(self, _end, process)
        _write(process, {"template": self.source})
        return process


def _write(process: Popen[bytes], line: dict[str, Any]) -> None:
    if process.stdin:
        process.stdin.write(json.dumps(line).encode() + b"\n")
        process.stdin.flush()


def _end(process: Popen[bytes]) -> None:
    with process:  # closes its pipes, and waits for it
        process.kill()
