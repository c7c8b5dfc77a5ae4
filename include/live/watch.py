"""The decision of the supervisor: a pure function from what it saw, and when, to whether it starts something."""

from __future__ import annotations

from dataclasses import dataclass, replace

_LASTS_S = 60.0
"""A start counts as lasting once the release has answered for so long."""
_LONGEST_PAUSE_S = {True: 8.0, False: 300.0}
"""The longest pause before the next start, after starts that brought an answer, and after those that did not."""


@dataclass(frozen=True)
class Watch:
    """The memory of the supervisor. Times are seconds of a monotonic clock.

    ``starts`` counts the starts in a row of which none has lasted. ``wait_until`` is the time before which nothing is
    started again.
    """

    starts: int = 0
    wait_until: float = 0.0
    answers_since: float | None = None
    silent_since: float | None = None

    def saw(self, answers: bool | None, now: float) -> Watch:
        """The memory after a look: the release answered, or did not, or is not meant to (None)."""
        if answers is None:
            return Watch()
        if not answers:
            silent_since = now if self.silent_since is None else self.silent_since
            return replace(self, answers_since=None, silent_since=silent_since)
        since = now if self.answers_since is None else self.answers_since
        lasts = now - since >= _LASTS_S
        return replace(self, starts=0 if lasts else self.starts, answers_since=since, silent_since=None)

    def may_start(self, now: float) -> bool:
        """True if the release is silent and no pause lasts."""
        return self.silent_since is not None and now >= self.wait_until

    def started(self, now: float, *, answered: bool) -> Watch:
        """The memory after a start; the pause before the next one doubles with each that did not last."""
        pause = min(2.0 ** min(self.starts, 10), _LONGEST_PAUSE_S[answered])
        return replace(self, starts=self.starts + 1, wait_until=now + pause)

    def silent_s(self, now: float) -> float:
        """The seconds since the first look in a row at which the release did not answer."""
        return 0.0 if self.silent_since is None else now - self.silent_since
