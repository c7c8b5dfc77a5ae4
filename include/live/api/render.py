"""The program that renders chat templates: ``python -m include.live.api.render``.

A template is a stranger's program, and Jinja's sandbox bounds neither its time nor its memory. So it runs in a process
of its own, which has no secrets, limits its memory and is killed when it takes too long.

The first line of its input is ``{"template": ...}``, each further one the variables of one text; it answers each by a
line with ``text`` or ``error``. Environment and globals are those of transformers, ``_compile_jinja_template``.
Standard library and Jinja only: it starts at once.
"""

from __future__ import annotations

import json
import resource
import sys
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Any

from jinja2 import Template, nodes
from jinja2.exceptions import TemplateError
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

_MEMORY_BYTES = 1 << 30
_MOST_CHARACTERS = 16 << 20


class _Generation(Extension):
    """The tag ``generation``, which marks an answer for training: here its content is all that counts."""

    tags = {"generation"}  # noqa: RUF012 - as Jinja declares it

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("_said"), [], [], body).set_lineno(line)

    def _said(self, caller: Callable[[], str]) -> str:
        return caller()


def _raise(message: str) -> None:
    raise TemplateError(message)


def _json(
    value: Any,  # noqa: ANN401 - any JSON
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def compiled(template: str) -> Template:
    """The template as transformers compiles it; raises `TemplateError` if it is none."""
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols]
    )
    environment.filters["tojson"] = _json
    environment.globals["raise_exception"] = _raise
    environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    return environment.from_string(template)


def _rendered(template: Template, variables: dict[str, Any]) -> str:
    return "".join(_bounded(template.generate(variables)))


def _bounded(pieces: Iterator[str]) -> Iterator[str]:
    length = 0
    for piece in pieces:
        length += len(piece)
        if length > _MOST_CHARACTERS:
            raise TemplateError(f"its text has more than {_MOST_CHARACTERS} characters")
        yield piece


def main() -> None:
    """Answers lines until its input ends."""
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_BYTES, _MEMORY_BYTES))
    source = json.loads(sys.stdin.readline())["template"]
    template: Template | None = None
    for line in sys.stdin:
        try:
            template = template or compiled(source)
            answer = {"text": _rendered(template, json.loads(line))}
        except Exception as error:  # whatever a template does, the next one may go well
            answer = {"error": str(error)[:500] or type(error).__name__}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
