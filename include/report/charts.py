"""The geometry of the plots: positions in per cent of the width, so that an SVG fits any window."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from include.gates.verdict import Load, Percentiles

_TICKS = 4
_STEPS = (1, 2, 2.5, 5, 10)


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
