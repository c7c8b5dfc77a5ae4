"""Tasks with known answers, as JSON lines: one object a line, which says how an answer is judged.

The original model's answers to them are made once (`include.stages.calibrate.original`); the gate judges.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from include.errors import UserError
from include.reading import read_lines

FIELD = "field task_data"
BUILTIN_FILE = Path(__file__).with_name("tasks.jsonl")
MOST_TASKS = 2000
_MOST_BYTES = 16 << 20
_LONGEST_LINE = 1 << 18
_EXAMPLE = '{"prompt": "What is 2 + 2?", "expected": "4", "judge": "contains"}'

Judge = Literal["exact", "contains", "choice", "regex"]
Text = Annotated[str, Field(min_length=1, max_length=1000, pattern=r"\S")]


class Task(BaseModel):
    """One task. ``judge`` says what answer is right; docs/gates.md describes the four ways.

    ``choices`` are those of a multiple choice, ``expected`` among them. An answer has ``max_tokens`` at most.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    prompt: Annotated[str, Field(min_length=1, max_length=20_000, pattern=r"\S")]
    expected: Text
    judge: Judge = "contains"
    choices: Annotated[tuple[Text, ...], Field(max_length=26)] = ()
    max_tokens: Annotated[int, Field(ge=1, le=1024)] = 32

    @model_validator(mode="after")
    def _has_its_choices(self) -> Self:
        if (self.judge == "choice") != bool(self.choices):
            raise ValueError("judge choice needs the field choices, and no other has it")
        if self.choices and self.expected not in self.choices:
            raise ValueError("expected must be one of the choices")
        if self.choices and len(set(map(settled, self.choices))) < max(2, len(self.choices)):
            raise ValueError("choices must be two or more, different also without regard to case and spaces")
        return self


def settled(text: str) -> str:
    """The text as answers are compared: without regard to case, to how words are spaced, and to how é is encoded."""
    return " ".join(unicodedata.normalize("NFC", unicodedata.normalize("NFC", text).casefold()).split())


def read_tasks(path: Path) -> dict[int, Task]:
    """The tasks of a file by the numbers of their lines, in their order; blank lines count for nothing.

    Raises:
        UserError: the file cannot be read, or a line is no task; the message has the line's number.
    """
    try:
        tasks = dict(_tasks(path))
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise bad_tasks(f"the tasks cannot be read: {reason}", path) from error
    if not tasks:
        raise bad_tasks("the file has no task", path)
    return tasks


def bad_tasks(what: str, path: Path, line: int | None = None) -> UserError:
    """The error about a file of tasks, and about a line of it."""
    where = f"{FIELD}: {path}" + (f", line {line}" if line else "")
    return UserError(what, where=where, fix=f"write one JSON object a line, such as {_EXAMPLE}")


def _tasks(path: Path) -> Iterator[tuple[int, Task]]:
    seen: dict[Task, int] = {}
    for number, line in enumerate(read_lines(path, _MOST_BYTES, _LONGEST_LINE), start=1):
        if not line.strip():
            continue
        if len(seen) == MOST_TASKS:
            raise bad_tasks(f"the file has more than {MOST_TASKS} tasks", path, number)
        try:
            task = Task.model_validate_json(line)
        except ValidationError as error:
            raise bad_tasks(f"the line is no task: {_problem(error)}", path, number) from error
        if task in seen:  # counted twice it would make the interval of the damage too narrow
            raise bad_tasks(f"the line is the same task as line {seen[task]}", path, number)
        seen[task] = number
        yield number, task


def _problem(error: ValidationError) -> str:
    found = error.errors()[0]
    field = ".".join(map(str, found["loc"]))
    message = found["msg"].removeprefix("Value error, ")
    return f"field {field}: {message}" if field else message
