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

from include.errors import UserError
from include.live.api.failures import ApiError, invalid
from include.model.tokenizer import DEFAULT_TEMPLATE, TokenizerFacts
from include.settings import PROJECT

_LIMIT_S = 5.0
_MESSAGE = "Hello"
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
            answer = await asyncio.to_thread(self.ask, variables)
        if "error" in answer:
            raise invalid(f"the model's chat template refuses these messages: {answer['error']}", "messages")
        return str(answer["text"])

    def ask(self, variables: dict[str, Any]) -> dict[str, Any]:
        """The ``text`` for these variables, or the ``error`` of the template; `ApiError` if it comes to no end."""
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


def check_template(facts: TokenizerFacts, where: str) -> None:
    """Raises `UserError` if a model has chat templates, and none that makes a prompt of a user's message."""
    templates = facts.templates
    if not templates:
        return
    if DEFAULT_TEMPLATE not in templates:
        raise UserError(
            f"the model has the chat templates {', '.join(sorted(templates))}, and none named {DEFAULT_TEMPLATE}",
            where=f"field chat_template: {where}",
            fix="set chat_template to off, or save the model with one chat template in chat_template.jinja",
        )
    question = {"messages": [{"role": "user", "content": _MESSAGE}], "add_generation_prompt": True, "tools": None}
    try:
        answer = ChatTemplate(templates[DEFAULT_TEMPLATE]).ask(question | dict(facts.special))
    except ApiError as error:
        answer = {"error": error.message}
    if _MESSAGE not in answer.get("text", _MESSAGE):
        answer = {"error": "the message is not in its text"}
    if "error" in answer:
        raise UserError(
            f"the model's chat template makes no prompt of a user's message: {answer['error']}",
            where=f"field chat_template: {where}",
            fix="set chat_template to off, or correct the model's chat template",
        )


def _write(process: Popen[bytes], line: dict[str, Any]) -> None:
    if process.stdin:
        process.stdin.write(json.dumps(line).encode() + b"\n")
        process.stdin.flush()


def _end(process: Popen[bytes]) -> None:
    with process:  # closes its pipes, and waits for it
        process.kill()
