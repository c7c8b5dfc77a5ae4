"""The geometry of the plots: positions in per cent of the width, so that an SVG fits any window."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from include.gates.verdict import Load, Percentiles

_TICKS = 4
_STEPS = (1, 2, 2.5, 5, 10)
_MARGIN = 3.0
_TREND_WIDTH = 100 - 2 * _MARGIN


@dataclass(frozen=True)
class Axis:
    """A scale from 0 to ``top``, in the unit of the values, with a tick at each ``step``."""

    top: float
    step: float

    @classmethod
    def over(cls, values: Iterable[float]) -> Axis:
        """The least scale of round steps that holds all values that are numbers."""
        highest = max(filter(math.isfinite, values), default=0) or 1
        magnitude = 10 ** math.floor(math.log10(highest / _TICKS))
        step = next(factor * magnitude for factor in _STEPS if factor * magnitude * _TICKS >= highest)
        return cls(top=math.ceil(highest / step) * step, step=step)

    @property
    def ticks(self) -> tuple[float, ...]:
        """The values at which there is a tick."""
        return tuple(self.step * number for number in range(round(self.top / self.step) + 1))

    def at(self, value: float) -> str:
        """The position of a value for SVG; 0 if the value is no number."""
        return f"{100 * value / self.top:.2f}%" if math.isfinite(value) else "0%"


@dataclass(frozen=True)
class Row:
    """One server under one load: the value that the plot shows, or three of them."""

    clients: int
    server: str
    value: float | None = None
    spread: Percentiles | None = None


@dataclass(frozen=True)
class Plot:
    """Rows on one axis. ``better``: which direction is."""

    title: str
    unit: str
    better: str
    axis: Axis
    rows: tuple[Row, ...]


def speed_plots(loads: Sequence[Load]) -> list[Plot]:
    """Throughput and each latency that was measured, candidate and live beside each other."""
    ordered = sorted(loads, key=lambda load: (load.concurrency, load.server))
    plots = [_throughput(ordered)] if ordered else []
    for title, name in (
        ("Time to first token", "ttft_ms"),
        ("Time between tokens", "itl_ms"),
        ("Time to the whole answer", "latency_ms"),
    ):
        rows = tuple(Row(load.concurrency, load.server, spread=getattr(load, name)) for load in ordered)
        rows = tuple(row for row in rows if row.spread)
        if rows:
            axis = Axis.over(row.spread.p99 for row in rows if row.spread)
            plots.append(Plot(title, "ms", "less is better", axis, rows))
    return plots


def _throughput(loads: Sequence[Load]) -> Plot:
    rows = tuple(Row(load.concurrency, load.server, value=load.output_tokens_per_s) for load in loads)
    axis = Axis.over(row.value for row in rows if row.value is not None)
    return Plot("Throughput", "tokens/s", "more is better", axis, rows)


@dataclass(frozen=True)
class Point:
    """One release on a trend line, at ``x`` and ``y`` of the SVG."""

    label: str
    value: float
    x: str
    y: str


@dataclass(frozen=True)
class Trend:
    """One figure over a history, oldest first; the line goes from its least to its greatest value."""

    title: str
    unit: str
    better: str
    points: tuple[Point, ...]

    @property
    def segments(self) -> tuple[tuple[Point, Point], ...]:
        """The line, piece by piece: only single lines take positions in per cent."""
        return tuple(itertools.pairwise(self.points))


def trend(title: str, unit: str, better: str, labels: Sequence[str], values: Sequence[float | None]) -> Trend | None:
    """The trend of what was measured; None if that is less than two values."""
    measured = [(label, v) for label, v in zip(labels, values, strict=True) if v is not None and math.isfinite(v)]
    if len(measured) < 2:
        return None
    low, high = min(value for _, value in measured), max(value for _, value in measured)
    step = _TREND_WIDTH / (len(measured) - 1)
    points = (
        Point(label, value, f"{_MARGIN + step * number:.2f}%", _height(value, low, high))
        for number, (label, value) in enumerate(measured)
    )
    return Trend(title, unit, f"{better} is better", tuple(points))


def _height(value: float, low: float, high: float) -> str:
    share = (value - low) / (high - low) if high > low else 0.5
    return f"{85 - 70 * share:.2f}%"
