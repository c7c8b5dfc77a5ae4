"""The decision about a served name: a pure function from the desired and the actual state to actions."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import Enum, auto
from pathlib import Path

from include.artifacts.pins import run_slug
from include.frozen import Frozen, Moment


class Suspension(Frozen):
    """A deliberate stop of a name's live server, to make room for a candidate of ``run`` (empty: for a rollback).

    ``live_since`` is the time of the promotion that was the last one then; earlier versions did not write it.
    """

    run: str
    since: Moment
    live_since: Moment | None = None


@dataclass(frozen=True)
class Desired:
    """The desired state. ``live`` is the record of the live release's server, ``live_since`` the time of its promotion.

    ``runs`` are not over; their candidates are kept, as are the servers of the records in ``keep``: those of the live
    releases of other names are among them.
    """

    live: Path | None = None
    live_since: datetime | None = None
    suspension: Suspension | None = None
    runs: frozenset[str] = frozenset()
    keep: frozenset[Path] = frozenset()


@dataclass(frozen=True)
class Actual:
    """The actual state: the records of all running servers, the live server's readiness, and the proxy's state.

    ``has_upstream`` is true if the proxy knows the name.
    """

    servers: tuple[Path, ...] = ()
    ready: bool = False
    proxy_runs: bool = False
    has_upstream: bool = False


class Step(Enum):
    """An action on the suspension, the proxy or the live server."""

    END_SUSPENSION = auto()
    """Ends the suspension after a promotion, and records the time without a server."""
    DROP_SUSPENSION = auto()
    """Ends the suspension because the run that it made room for is over."""
    RECORD_PROMOTION = auto()
    WITHDRAW = auto()
    """Makes the proxy forget the name."""
    LAUNCH = auto()
    """Starts the live release's server."""
    POINT = auto()
    """Starts the proxy if needed, and sends the name's requests to the live release's server."""
    DRAIN = auto()
    """Waits for requests in flight to other servers."""


@dataclass(frozen=True)
class Stop:
    """Stops the server of this record."""

    record: Path


Action = Step | Stop


def decide(desired: Desired, actual: Actual) -> list[Action]:
    """The actions, in order, that make only the live release answer under its name.

    After an interruption between two actions a new decision leads to the same state.
    """
    ends = _end_of_suspension(desired)
    suspended = desired.suspension is not None and ends is None
    needed = {*desired.keep, desired.live}
    candidates = {f"candidate-{run_slug(run)}.json" for run in desired.runs}
    stops = [Stop(path) for path in actual.servers if path not in needed and path.name not in candidates]
    begin: list[Action] = [*([ends] if ends else []), Step.RECORD_PROMOTION]
    if desired.live and not suspended:
        if not actual.ready:
            # Other servers stop first: there may be memory for one only.
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
    if desired.live_since and _is_new(desired.live_since, suspension):
        return Step.END_SUSPENSION
    return None if suspension.run in desired.runs else Step.DROP_SUSPENSION


def _is_new(promotion: datetime, suspension: Suspension) -> bool:
    """True if the promotion came after the suspension, also if the clock has been set back in between."""
    return promotion != suspension.live_since if suspension.live_since else promotion > suspension.since
