"""The log of a stage program in the worker: its steps with the time that is left, its tools' lines apart."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from include.files import Log
from include.stages.progress import TOOL, Step, about

_PUBLISH_S = 10.0
_SURE = 0.05
"""The share of a part from which on its own pace tells more than an earlier run."""


@dataclass
class StageLog:
    """A log that a runner writes a program's lines to.

    ``expected`` has the seconds of each part in an earlier run, in their order; without it, the time that is left is
    told for the running part alone. ``debug`` gets the lines of tools, ``publish`` a step once in a while.
    """

    log: Log
    debug: Log
    publish: Callable[[str], None]
    expected: Mapping[str, float] = field(default_factory=dict)
    now: Callable[[], float] = time.monotonic
    _part: str = field(default="", init=False)
    _since: float = field(default=0, init=False)
    _done: dict[str, float] = field(default_factory=dict, init=False)
    _published: float = field(default=float("-inf"), init=False)

    def __call__(self, line: str) -> None:
        """Logs a line."""
        if line.startswith(TOOL):
            self.debug(line.removeprefix(TOOL))
            return
        if step := Step.parse(line):
            line = self._with_rest(step)
            if self.now() - self._published >= _PUBLISH_S:
                self._published = self.now()
                self.publish(line)
        self.log(line)

    def _with_rest(self, step: Step) -> str:
        if step.part != self._part:
            self._part, self._since = step.part, self.now()
        if step.seconds is not None:
            self._done[step.part] = step.seconds
        rest, of = self._rest(step)
        return f"{step}, about {about(rest)} left{of}" if rest else str(step)

    def _rest(self, step: Step) -> tuple[float, str]:
        """The seconds that are left, and of what if not of the whole stage."""
        own = (self.now() - self._since) / step.share * (1 - step.share) if step.share > _SURE else None
        if step.part not in self.expected:
            return own or 0, " of this step"
        pace = self._pace()
        parts = list(self.expected)
        later = sum(self.expected[part] for part in parts[parts.index(step.part) + 1 :]) * pace
        return (self.expected[step.part] * pace * (1 - step.share) if own is None else own) + later, ""

    def _pace(self) -> float:
        """How much longer the parts that are done took than before."""
        before = sum(self.expected[part] for part in self._done if part in self.expected)
        return sum(self._done[part] for part in self._done if part in self.expected) / before if before else 1
