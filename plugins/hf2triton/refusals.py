"""A middleware of Airflow's API server that shortens what it answers to a run with a bad value.

Airflow 3.3 answers with all of jsonschema's error: the message, the schema of the field and the value. Its form shows
that to people, and has no other place for a message.
"""

from __future__ import annotations

import json
import re
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]

_BAD_REQUEST = 400
_DUMP = re.compile(r"\n+Failed validating .*", re.DOTALL)
_PATTERN = re.compile(r" does not match '.*'")


def shortened(detail: str) -> str:
    """The message about a bad value, without the schema that refuses it."""
    message = _DUMP.sub("", detail)
    return _PATTERN.sub(" is not of the form that the field's description tells", message)


class ShortRefusals:
    """The middleware; all other answers pass through it as they are."""

    def __init__(self, app: App) -> None:
        self._app = app

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answers a request; holds back an answer 400 to a trigger until it is whole."""
        if scope["type"] != "http" or scope["method"] != "POST" or not scope["path"].endswith("/dagRuns"):
            await self._app(scope, receive, send)
            return
        refusal: list[Message] = []

        async def shorten(message: Message) -> None:
            if message["type"] == "http.response.start" and message["status"] == _BAD_REQUEST:
                refusal.append(message)
            elif not refusal:
                await send(message)
            else:
                refusal.append(message)
                if not message.get("more_body"):
                    for one in _short(refusal):
                        await send(one)

        await self._app(scope, receive, shorten)


def _short(refusal: list[Message]) -> list[Message]:
    """The messages of an answer, with a shorter body if it is Airflow's about a bad value."""
    start, *rest = refusal
    body = b"".join(message.get("body", b"") for message in rest)
    try:
        answer = json.loads(body)
        answer["detail"] = shortened(answer["detail"])
    except (ValueError, KeyError, TypeError):
        return refusal
    body = json.dumps(answer).encode()
    headers = [(name, value) for name, value in start["headers"] if name.lower() != b"content-length"]
    headers.append((b"content-length", str(len(body)).encode()))
    return [{**start, "headers": headers}, {"type": "http.response.body", "body": body}]
