"""Failures are classes: each says what failed, where, and what to do next.

Standard library only: this module travels with the stage programs into their containers.
"""

from __future__ import annotations

from typing import ClassVar

_LONGEST = 10_000


def printable(text: str) -> str:
    """``text`` as every log, page and database can hold it: control characters escaped, a long one without its middle.

    Models, data and servers put names of their own into messages.
    """
    if len(text) > _LONGEST:
        text = f"{text[: _LONGEST // 2]} [...] {text[-_LONGEST // 2 :]}"
    return "".join(c if c.isprintable() or c in "\n\t" else c.encode("unicode_escape").decode() for c in text)


class PipelineError(Exception):
    """A failure that names its cause. ``retry`` says whether the same again can end well.

    A stage program that ends in one exits with ``exit_code`` (numbers after sysexits.h).
    """

    exit_code: ClassVar[int] = 70
    retry: ClassVar[bool] = False

    def __init__(self, what: str, *, where: str = "", fix: str = "") -> None:
        self.what, self.where, self.fix = map(printable, (what, where, fix))
        super().__init__(self.what)

    def __str__(self) -> str:
        lines = [self.what]
        if self.where:
            lines.append(f"  where: {self.where}")
        if self.fix:
            lines.append(f"  do: {self.fix}")
        return "\n".join(lines)

    def to_dict(self) -> dict[str, str]:
        """The failure as JSON-able fields; `from_dict` is its inverse."""
        return {"class": type(self).__name__, "what": self.what, "where": self.where, "fix": self.fix}


class UserError(PipelineError):
    """The request cannot be met as asked: bad params, gated model, unsupported architecture."""

    exit_code = 64


class GateFailure(PipelineError):
    """The candidate works but is not good enough to go live."""

    exit_code = 65


class HostError(PipelineError):
    """The machine lacks something: no Docker, no GPU, disk full, port taken."""

    exit_code = 69


class ToolError(PipelineError):
    """A tool ended in an error of its own; ``what`` holds its last lines."""

    exit_code = 70


class TransientError(PipelineError):
    """Network or daemon away: the same again may end well."""

    exit_code = 75
    retry = True


class Cancelled(PipelineError):
    """A person has stopped the run."""


class Ended(TransientError):
    """Airflow has ended the task: its run was cancelled, it was cleared or marked, or its worker stops.

    Only after the last is there a retry: Airflow takes no news of a task that it has given another state.
    """

    def __init__(self) -> None:
        super().__init__(
            "the program was stopped with its task",
            where="Airflow ended the task: its run or the task was stopped, or its worker",
            fix="trigger the run again if nobody meant to stop it: finished stages are taken from the store",
        )


CLASSES = (UserError, GateFailure, HostError, ToolError, TransientError)
"""The failures that travel between processes."""


def from_dict(fields: dict[str, str]) -> PipelineError:
    """The failure that `PipelineError.to_dict` described; an unknown class becomes a `ToolError`."""
    classes = {c.__name__: c for c in CLASSES}
    return classes.get(fields["class"], ToolError)(fields["what"], where=fields["where"], fix=fields["fix"])
