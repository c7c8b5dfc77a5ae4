"""Marks lie where their values are."""

from __future__ import annotations

import math

import pytest

from include.report.charts import Axis, speed_plots
from tests.support.report import load, spread


@pytest.mark.parametrize(
    ("values", "ticks"),
    [
        ([205, 181], (0, 100, 200, 300)),
        ([14.15, 11.69], (0, 5, 10, 15)),
        ([0.8], (0, 0.2, 0.4, 0.6, 0.8)),
        ([100], (0, 25, 50, 75, 100)),
        ([], (0, 0.25, 0.5, 0.75, 1)),
        ([0], (0, 0.25, 0.5, 0.75, 1)),
        ([float("nan"), 100, float("inf")], (0, 25, 50, 75, 100)),
        ([2.3e9], (0, 1e9, 2e9, 3e9)),
    ],
    ids=str,
)
def test_an_axis_has_a_few_round_ticks_and_holds_all_values(values: list[float], ticks: tuple[float, ...]) -> None:
    axis = Axis.over(values)
    assert axis.ticks == pytest.approx(ticks)
    assert all(axis.top >= value for value in values if math.isfinite(value))


@pytest.mark.parametrize(("value", "place"), [(0, "0.00%"), (50, "50.00%"), (100, "100.00%"), (float("nan"), "0%")])
def test_a_mark_lies_at_its_share_of_the_axis(value: float, place: str) -> None:
    assert Axis(top=100, step=25).at(value) == place


def test_plots_are_ordered_by_load_and_hold_both_servers() -> None:
    loads = [load(server, clients, 10) for clients in (4, 1) for server in ("live", "candidate")]
    (throughput,) = speed_plots(loads)
    expected = [(1, "candidate"), (1, "live"), (4, "candidate"), (4, "live")]
    assert [(row.clients, row.server) for row in throughput.rows] == expected


def test_a_latency_that_one_server_did_not_give_is_left_out_for_it_alone() -> None:
    plots = speed_plots([load("candidate", 1, 10, ttft_ms=spread(5)), load("live", 1, 10)])
    assert [(plot.title, len(plot.rows)) for plot in plots] == [("Throughput", 2), ("Time to first token", 1)]


def test_without_loads_there_is_nothing_to_plot() -> None:
    assert speed_plots([]) == []
