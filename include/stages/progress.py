"""The lines in which a stage program says how far it is, written by the program and read by its runner.

Standard library only: this module travels with the stage programs into their containers.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Self

EVERY_S = 5.0
"""Seconds between two lines about the same part."""

TOOL = "tool: "
"""The start of a line that a tool wrote, of interest only when something is wrong."""

_LINE = re.compile(r"(?P<part>[\w -]+)(?: \.\.\.|: (?P<what>.+) \((?P<share>[\d.]+) %\)| done in (?P<done>[\d.]+) s)")


@dataclass(frozen=True)
class Step:
    """How far a part of a stage is: ``share`` from 0 to 1. ``seconds`` is its duration once it is done."""

    part: str
    what: str = ""
    share: float = 0
    seconds: float | None = None

    def __str__(self) -> str:
        if self.seconds is not None:
            return f"{self.part} done in {self.seconds:.1f} s"
        return f"{self.part}: {self.what} ({self.share * 100:.1f} %)" if self.what else f"{self.part} ..."

    @classmethod
    def parse(cls, line: str) -> Self | None:
        """The step that a line tells of, None if it is another line."""
        found = _LINE.fullmatch(line)
        if found is None:
            return None
        done, share = found["done"], found["share"]
        if done:
            return cls(found["part"], share=1, seconds=float(done))
        return cls(found["part"], found["what"] or "", float(share) / 100 if share else 0)


def about(seconds: float) -> str:
    """A duration as exactly as an estimate is: ``40 s``, ``3 min``, ``2 h 10 min``."""
    if seconds < 95:
        return f"{max(5 * round(seconds / 5), 5)} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"
