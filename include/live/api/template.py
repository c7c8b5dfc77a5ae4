"""A model's chat template, rendered by a process of its own (see `include.live.api.render`)."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import weakref
from asyncio.subprocess import PIPE, Process
from contextlib import suppress
from http import HTTPStatus
from typing import Any

from include.live.api.failures import ApiError, invalid
from include.settings import PROJECT

_LIMIT_S = 5.0
_LONGEST_LINE = 256 << 20
_PASSED = ("LANG", "LC_ALL", "TZ")


class ChatTemplate:
    """One template; its process starts with the first text, and ends with this object."""

    def __init__(self, source: str, limit_s: float = _LIMIT_S) -> None:
        self.source = source
        self._limit_s = limit_s
        self._lock = asyncio.Lock()
        self._process: Process | None = None

    async def render(self, variables: dict[str, Any]) -> str:
        """The text for these variables; raises `ApiError` if the template refuses them, or does not come to an end."""
        async with self._lock:
            try:
                answer = await asyncio.wait_for(self._ask(json.dumps(variables)), self._limit_s)
            except BaseException as error:
                self._kill()
                if isinstance(error, TimeoutError | OSError | ValueError):
                    said = f"the model's chat template did not give a text within {self._limit_s:g} s and 1 GiB"
                    raise ApiError(HTTPStatus.INTERNAL_SERVER_ERROR, said) from error
                raise
        if "error" in answer:
            raise invalid(f"the model's chat template refuses these messages: {answer['error']}", "messages")
        return str(answer["text"])

    async def _ask(self, line: str) -> dict[str, Any]:
        process = self._process or await self._start()
        if process.stdin is None or process.stdout is None:
            raise ValueError("a process without pipes")
        process.stdin.write(line.encode() + b"\n")
        await process.stdin.drain()
        answer: dict[str, Any] = json.loads(await process.stdout.readline())
        return answer

    async def _start(self) -> Process:
        environment = {name: os.environ[name] for name in _PASSED if name in os.environ}
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "include.live.api.render"),
            stdin=PIPE,
            stdout=PIPE,
            limit=_LONGEST_LINE,
            cwd="/",
            env={**environment, "PYTHONPATH": str(PROJECT)},
        )
        self._process = process
        self._end = weakref.finalize(self, _kill, process)
        if process.stdin:
            process.stdin.write(json.dumps({"template": self.source}).encode() + b"\n")
        return process

    def _kill(self) -> None:
        if self._process:
            self._end()
        self._process = None


def _kill(process: Process) -> None:
    if process.returncode is None:
        with suppress(ProcessLookupError):
            process.kill()
