"""The view of served names says what records and reports say, and judges figures by their direction."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from include.gates import Quality, Sample
from include.releases.records import Outage, Promotion, Release
from include.report.charts import trend
from include.report.model import Scores
from include.report.models import Card, Figure, Line, chosen, compare, trends, uptime
from include.report.urls import urls
from tests.support.report import WHEN, load, report, verdict

DAY = timedelta(days=1)


def line(number: int, state: str = "retired", *, report_: Any = None, pruned: bool = False, **fields: Any) -> Line:
    known = {
        "model": "org--model",
        "number": number,
        "target": "openvino",
        "repository": f"r{number}",
        "chain": {"model": f"org/model@c{number}"},
        "request": {"model": "org/model", "max_batch_size": 8},
    }
    return Line(Release(**{**known, **fields}), state, pruned, report_)


def card(*lines: Line, previous: int | None = None, **fields: Any) -> Card:
    live = next((one for one in lines if one.state == "live"), None)
    named = {one.release.number: one.release.id for one in lines}
    known: dict[str, Any] = {
        "name": "model",
        "is_default": False,
        "since": WHEN if live else None,
        "answers": True if live else None,
        "now": WHEN + 10 * DAY,
        "urls": urls("http://127.0.0.1:8000", "model"),
    }
    return Card(lines=lines, live=live, previous=named.get(previous or 0), **{**known, **fields})


def measured(perplexity: float, tokens_per_s: float, **answers: str) -> Any:
    return report(
        verdict("speed", loads=(load("candidate", 1, tokens_per_s), load("live", 1, 1))),
        quality=Quality(before=10, after=perplexity, samples=8, tokens=4000),
        answers=tuple(Sample(prompt=prompt, answer=answer) for prompt, answer in answers.items()),
    )


@pytest.mark.parametrize(
    ("outages", "share"),
    [
        ((), 1.0),
        (((1, 2),), 0.9),
        (((-5, -4),), 1.0),
        (((-5, 1),), 0.9),
        (((9, None),), 0.9),
        (((1, 2), (3, 4)), 0.8),
    ],
    ids=["none", "one", "before the promotion", "across the promotion", "lasts", "two"],
)
def test_uptime_counts_the_outages_since_the_promotion(outages: Any, share: float) -> None:
    known = [
        Outage(since=WHEN + begin * DAY, until=None if end is None else WHEN + end * DAY, cause="c")
        for begin, end in outages
    ]
    assert uptime(WHEN, WHEN + 10 * DAY, known) == pytest.approx(share)


def test_uptime_of_a_release_that_went_live_this_moment_is_whole() -> None:
    assert uptime(WHEN, WHEN, [Outage(since=WHEN, cause="c")]) == 1


def test_a_name_off_the_air_has_no_uptime() -> None:
    assert card(line(1)).uptime is None


def test_outages_of_all_releases_are_listed_newest_first() -> None:
    old, new = Outage(since=WHEN, cause="old"), Outage(since=WHEN + DAY, cause="new")
    found = card(line(2, outages=(old,)), line(1, outages=(new,))).outages
    assert [(down.release.number, down.outage.cause) for down in found] == [(1, "new"), (2, "old")]


def test_a_release_is_called_by_its_number_unless_another_model_had_the_name() -> None:
    first, other = line(1), line(2, model="org--other")
    assert card(first).label(first.release) == "release 1"
    assert card(first, other).label(first.release) == "org--model/1"


def test_only_what_was_live_and_has_its_artifacts_can_be_rolled_back_to() -> None:
    states = ("live", "retired", "rejected", "candidate")
    assert [state for state in states if line(1, state).can_be_live_again] == ["retired"]
    assert not line(1, "retired", pruned=True).can_be_live_again


def test_a_rollback_names_a_release_that_no_number_could_mistake() -> None:
    first, second, other = line(1), line(2), line(2, model="org--other")
    assert card(first, second).rollback(second.release) == {"name": "model", "to": "2"}
    assert card(first, second, other).rollback(other.release) == {"model": "org--other", "to": "2"}
    assert card(first, second, other).rollback(first.release) == {"name": "model", "to": "1"}


def test_changes_of_a_request_name_each_field_and_the_commit() -> None:
    before = line(1, request={"model": "org/model", "calib_size": 32, "gone": 1})
    after = line(2, request={"model": "org/model", "calib_size": 64, "new": None})
    found = {change.field: (change.before, change.after) for change in compare(before, after).changes}
    assert found == {
        "calib_size": (32, 64),
        "gone": (1, "not a field then"),
        "new": ("not a field then", None),
        "commit": ("c1", "c2"),
    }


@pytest.mark.parametrize(
    ("before", "after", "better", "judgement"),
    [
        (10, 9, "less", "better"),
        (10, 11, "less", "worse"),
        (10, 11, "more", "better"),
        (10, 9, "more", "worse"),
        (10, 10.01, "more", "same"),
        (None, 9, "less", ""),
        (10, None, "less", ""),
        (0, 9, "less", ""),
        (10, float("nan"), "less", ""),
    ],
)
def test_figures_are_judged_by_their_direction(before: Any, after: Any, better: Any, judgement: str) -> None:
    assert Figure("f", before, after, better).judgement == judgement


def test_figures_and_answers_stand_side_by_side() -> None:
    before = line(1, report_=measured(12, 30, one="a", gone="b"))
    after = line(2, report_=measured(11, 60, one="c", new="d"))
    made = compare(before, after)
    assert {figure.title: (figure.before, figure.after, figure.judgement) for figure in made.figures} == {
        "Perplexity before quantization": (10, 10, "same"),
        "Perplexity after quantization": (12, 11, "better"),
        "Tokens/s, 1 client": (30, 60, "better"),
    }
    assert [(pair.prompt, pair.before, pair.after) for pair in made.answers] == [
        ("one", "a", "c"),
        ("gone", "b", None),
        ("new", None, "d"),
    ]


@pytest.mark.parametrize(("first", "second", "shown"), [("o", "o", "o"), (None, "o", "o"), ("o", "x", None)])
def test_the_originals_answer_is_shown_if_both_have_the_same(first: Any, second: Any, shown: Any) -> None:
    reports = [report(answers=(Sample(prompt="one", answer="a", original=known),)) for known in (first, second)]
    (pair,) = compare(*(line(number, report_=one) for number, one in enumerate(reports, start=1))).answers
    assert pair.original == shown


def test_releases_without_reports_compare_by_their_requests_alone() -> None:
    made = compare(line(1), line(2))
    assert (made.figures, made.answers) == ((), ())
    assert [change.field for change in made.changes] == ["commit"]


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        (None, None, (2, 3)),
        ("org--model/1", None, (1, 3)),
        ("org--model/1", "org--model/2", (1, 2)),
        ("org--other/9", "../../etc", (2, 3)),
    ],
    ids=["default", "left", "both", "unknown"],
)
def test_the_releases_to_compare_can_be_chosen(before: Any, after: Any, expected: tuple[int, int]) -> None:
    made = chosen(card(line(4, "rejected"), line(3, "live"), line(2), line(1), previous=2), before, after)
    assert made is not None
    assert (made.before.release.number, made.after.release.number) == expected


def test_one_release_is_not_compared() -> None:
    assert chosen(card(line(1, "live")), None, None) is None


def test_the_oldest_release_is_compared_with_its_successor() -> None:
    made = chosen(card(line(2, "candidate"), line(1, "live")), None, None)
    assert made is not None
    assert (made.before.release.number, made.after.release.number) == (1, 2)


def test_a_trend_skips_what_was_not_measured() -> None:
    made = trends([("1", Scores(perplexity_after=12)), ("2", Scores()), ("3", Scores(perplexity_after=11))])
    assert [(one.title, [point.label for point in one.points]) for one in made] == [("Perplexity", ["1", "3"])]


def test_speed_has_a_trend_for_the_least_and_the_greatest_load() -> None:
    scores = Scores(tokens_per_s={1: 10, 2: 15, 8: 30})
    assert [one.title for one in trends([("1", scores), ("2", scores)])] == ["Speed, 1 client", "Speed, 8 clients"]


def test_a_line_goes_from_left_to_right_and_up_with_its_values() -> None:
    made = trend("t", "u", "more", ["1", "2", "3"], [1, 3, 2])
    assert made is not None
    assert [(point.x, point.y) for point in made.points] == [
        ("3.00%", "85.00%"),
        ("50.00%", "15.00%"),
        ("97.00%", "50.00%"),
    ]
    assert len(made.segments) == 2


@pytest.mark.parametrize("values", [[], [1.0], [1.0, None], [1.0, float("nan")]])
def test_less_than_two_values_are_no_trend(values: list[float | None]) -> None:
    assert trend("t", "u", "more", ["1"] * len(values), values) is None


def test_equal_values_are_a_level_line() -> None:
    made = trend("t", "u", "more", ["1", "2"], [5, 5])
    assert made is not None
    assert {point.y for point in made.points} == {"50.00%"}


def test_the_last_promoted_release_is_known_after_a_retirement() -> None:
    promoted = line(1, promotions=(Promotion(at=WHEN),))
    found = card(line(2, "candidate"), promoted).last_promoted
    assert found is promoted
    assert card(line(2, "candidate")).last_promoted is None


def test_a_card_says_how_its_release_computes_and_an_earlier_versions_leaves_it_out() -> None:
    fast = line(2, request={"model": "org/model", "precision": "fast", "calib_size": 8})
    assert fast.settings == {"model": "org/model", "precision": "fast"}
    assert line(1).settings == {"model": "org/model", "max_batch_size": 8}
