"""Tasks with the original model's answers, and the four ways in which an answer is judged."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from pathlib import Path

import re2

from include.files import read_record
from include.frozen import Frozen
from include.stages.calibrate.original import TASKS_FILE
from include.stages.calibrate.tasks import Judge, Task, bad_tasks, read_tasks, settled

_LETTER = r"[^\W\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]"
"""Of a word with spaces around it: Thai, Lao, Burmese, Khmer, Chinese and Japanese set none."""
_QUIET = re2.Options()
_QUIET.log_errors = False


class AnsweredTask(Frozen):
    """A task with the original model's answer; None if prompt and answer exceed the model's positions.

    ``prompt_tokens`` counts the prompt as the model was fed it: in its chat template if ``chat``.
    """

    prompt: str
    expected: str
    judge: Judge
    choices: tuple[str, ...] = ()
    max_tokens: int
    chat: bool
    prompt_tokens: int
    original: str | None

    def is_right(self, answer: str) -> bool:
        """True if the answer is what the task expects, in its own way of judging."""
        return _JUDGES[self.judge](self, answer)


class AnsweredTasks(Frozen):
    """The file that `include.stages.calibrate.original` wrote."""

    tasks: tuple[AnsweredTask, ...] = ()


def read_answered(original: Path) -> tuple[AnsweredTask, ...]:
    """The tasks in an artifact of the original model; raises `HostError` if the file is damaged."""
    return read_record(original / TASKS_FILE, AnsweredTasks).tasks


def check_tasks(path: Path) -> tuple[Task, ...]:
    """The tasks of a user's file, once their regular expressions compile, too; raises `UserError` with the line."""
    tasks = read_tasks(path)
    for number, task in tasks.items():
        if task.judge == "regex":
            try:
                _compiled(task.expected)
            except re2.error as error:
                reason = error.args[0].decode() if error.args else "it does not compile"
                what = f"expected is no regular expression of RE2, which has no lookaround: {reason}"
                raise bad_tasks(what, path, number) from error
    return tuple(tasks.values())


def _exact(task: AnsweredTask, answer: str) -> bool:
    return settled(answer) == settled(task.expected)


def _contains(task: AnsweredTask, answer: str) -> bool:
    return _place(task.expected, answer) is not None


def _choice(task: AnsweredTask, answer: str) -> bool:
    """The first choice that the answer names is the right one; of two that begin at one place the longer counts."""
    places = [(place, -len(choice), choice) for choice in task.choices if (place := _place(choice, answer)) is not None]
    return bool(places) and min(places)[2] == task.expected


def _regex(task: AnsweredTask, answer: str) -> bool:
    # Whether an answer begins with a space depends on the decoder.
    return _compiled(task.expected).search(unicodedata.normalize("NFC", answer).strip()) is not None


_JUDGES: dict[Judge, Callable[[AnsweredTask, str], bool]] = {
    "exact": _exact,
    "contains": _contains,
    "choice": _choice,
    "regex": _regex,
}


def _place(wanted: str, answer: str) -> int | None:
    """Where an answer has a text as whole words and numbers, so that 4 is found neither in 14 nor in 4.5 or -4."""
    text = settled(wanted)
    before = r"(?<!\d[.,])(?<!(?<!\w)[-\u2212])" if text[0].isdigit() else ""
    after = r"(?![.,]\d)" if text[-1].isdigit() else ""
    found = re.search(rf"(?<!{_LETTER}){before}{re.escape(text)}(?!{_LETTER}){after}", settled(answer))
    return found.start() if found else None


def _compiled(expression: str) -> re2._Regexp:
    """RE2 takes linear time, whatever a user writes."""
    return re2.compile(f"(?i){unicodedata.normalize('NFC', expression)}", _QUIET)
