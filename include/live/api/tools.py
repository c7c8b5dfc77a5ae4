"""Tool calls in the text of an answer, in the forms that are known from chat templates."""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field

from include.reading import parse_json


@dataclass(frozen=True)
class Call:
    """A call of a tool; ``arguments`` is a JSON object in a string, as OpenAI has it."""

    name: str
    arguments: str
    id: str = field(default_factory=lambda: f"call_{secrets.token_hex(12)}")


Read = Callable[[str], list[Call]]


@dataclass(frozen=True)
class ToolForm:
    """A form of calls: the text that they begin with, and their reader; that gives none if it is no call after all.

    ``leads``: only an answer that begins so is a call.
    """

    begin: str
    read: Read
    leads: bool = False


def form_of(template: str) -> ToolForm | None:
    """The form in which a model with this chat template calls tools; None if it has none, or an unknown one."""
    if "<tool_call>" in template and "tools" in template:
        return ToolForm("<tool_call>", _hermes)
    if "ipython" in template and '"parameters"' in template:
        return ToolForm("{", _llama, leads=True)
    return None


class Calls:
    """An answer's text as it comes, from which calls are taken out."""

    def __init__(self, form: ToolForm | None) -> None:
        self._form = form
        self._held = ""
        self._calls = False
        self._said = False

    def feed(self, text: str) -> str:
        """The text that is certainly no part of a call."""
        if self._form is None:
            return text
        self._held += text
        if self._calls:
            return ""
        return self._take(self._form)

    def finish(self) -> tuple[str, list[Call]]:
        """The rest of the text, and the calls, once the answer is whole."""
        calls = self._form.read(self._held) if self._form and self._calls else []
        return ("" if calls else self._held), calls

    def _take(self, form: ToolForm) -> str:
        if form.leads and (self._said or not self._held.strip()):
            return self._release(len(self._held) if self._said else 0)
        begin = len(self._held) - len(self._held.lstrip()) if form.leads else self._held.find(form.begin)
        self._calls = begin >= 0 and self._held.startswith(form.begin, begin)
        if self._calls:
            return self._release(begin)
        return self._release(len(self._held) - (0 if form.leads else overlap(self._held, [form.begin])))

    def _release(self, end: int) -> str:
        text, self._held = self._held[:end], self._held[end:]
        self._said = self._said or bool(text.strip())
        return text


def overlap(text: str, words: list[str]) -> int:
    """The length of the longest end of a text that one of the words begins with, without being whole."""
    longest = min(len(text), max(map(len, words), default=1) - 1)
    return next((n for n in range(longest, 0, -1) if any(w.startswith(text[-n:]) for w in words if len(w) > n)), 0)


def _hermes(text: str) -> list[Call]:
    """``<tool_call>{"name": ..., "arguments": {...}}</tool_call>``, one or several: Hermes and Qwen."""
    found = [_call(one, "arguments") for one in re.findall(r"<tool_call>(.*?)(?:</tool_call>|\Z)", text, re.DOTALL)]
    calls = [call for call in found if call]
    return calls if len(calls) == len(found) else []


def _llama(text: str) -> list[Call]:
    """``{"name": ..., "parameters": {...}}`` and nothing else: Llama 3."""
    call = _call(text, "parameters")
    return [call] if call else []


def _call(text: str, arguments: str) -> Call | None:
    try:
        fields = parse_json(text.strip())
    except ValueError:
        return None
    if not isinstance(fields, dict) or not isinstance(fields.get("name"), str):
        return None
    given = fields.get(arguments, {})
    return Call(fields["name"], json.dumps(given, ensure_ascii=False)) if isinstance(given, dict) else None
