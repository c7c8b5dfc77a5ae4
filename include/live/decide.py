"""The decision how the live address gets from what is to what should be: a pure function, apart from acting."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import Enum, auto
from pathlib import Path

from include.artifacts.pins import run_slug
from include.frozen import Frozen


class Suspension(Frozen):
    """The live server was stopped on purpose, to make room for a candidate of ``run`` (empty: for a rollback)."""

    run: str
    since: datetime


@dataclass(frozen=True)
class Desired:
    """What should be. ``live`` is the record of the live release's server, ``live_since`` when the live link was moved.

    ``runs`` are not over; their candidates stay, and so do the servers of the records in ``keep``.
    """

    live: Path | None = None
    live_since: datetime | None = None
    suspension: Suspension | None = None
    runs: frozenset[str] = frozenset()
    keep: frozenset[Path] = frozenset()


@dataclass(frozen=True)
class Actual:
    """What is: the records of all servers that run, whether the live release's is ready, and the proxy's state."""

    servers: tuple[Path, ...] = ()
    ready: bool = False
    proxy_runs: bool = False
    has_upstream: bool = False


class Step(Enum):
    """An action on what there is one of."""

    END_SUSPENSION = auto()
    """A promotion has ended it: the time without a server is recorded."""
    DROP_SUSPENSION = auto()
    """The run that it made room for is over."""
    RECORD_PROMOTION = auto()
    WITHDRAW = auto()
    """The proxy refuses requests."""
    LAUNCH = auto()
    """The live release's server is started."""
    POINT = auto()
    """The proxy runs and sends requests to the live release's server."""
    DRAIN = auto()
    """Requests in flight to other servers end."""


@dataclass(frozen=True)
class Stop:
    """The server of this record is stopped."""

    record: Path


Action = Step | Stop


def decide(desired: Desired, actual: Actual) -> list[Action]:
    """The actions that make the live release answer at the address, and nothing else, in their order.

    Whoever is cut off between two of them decides anew, and comes to the same end.
    """
    ends = _end_of_suspension(desired)
    suspended = desired.suspension is not None and ends is None
    needed = {*desired.keep, desired.live}
    candidates = {f"candidate-{run_slug(run)}.json" for run in desired.runs}
    stops = [Stop(path) for path in actual.servers if path not in needed and path.name not in candidates]
    begin: list[Action] = [*([ends] if ends else []), Step.RECORD_PROMOTION]
    if desired.live and not suspended:
        if not actual.ready:
            # Others go first: there may be memory for one only.
            return [*begin, *stops, Step.LAUNCH, Step.POINT]
        return [*begin, Step.POINT, *([Step.DRAIN] if stops else []), *stops]
    if desired.live is None and actual.proxy_runs and actual.has_upstream:
        begin.append(Step.WITHDRAW)
    if stops and actual.proxy_runs:
        begin.append(Step.DRAIN)
    return [*begin, *stops]


def _end_of_suspension(desired: Desired) -> Step | None:
    suspension = desired.suspension
    if suspension is None:
        return None
    if desired.live_since and desired.live_since > suspension.since:
        return Step.END_SUSPENSION
    return None if suspension.run in desired.runs else Step.DROP_SUSPENSION
