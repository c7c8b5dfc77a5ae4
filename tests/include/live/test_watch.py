"""When the supervisor starts something: `Watch`, over simulated time."""

from __future__ import annotations

from itertools import pairwise

import pytest

from include.live.watch import Watch

POLL_S = 2.0
STARTS_IN_S = 1.0


def simulate(until_s: float, lives_s: float | None) -> list[float]:
    """The times at which a release is started that answers for ``lives_s`` after each start; None: never."""
    watch, now, dies_at, starts = Watch(), 0.0, 0.0, []
    while now < until_s:
        watch = watch.saw(now < dies_at, now)
        if watch.may_start(now):
            starts.append(now)
            now += STARTS_IN_S
            dies_at = now + (lives_s or 0)
            watch = watch.started(now, answered=lives_s is not None)
        now += POLL_S
    return starts


def pauses(starts: list[float]) -> list[float]:
    return [after - before for before, after in pairwise(starts)]


def test_what_is_gone_is_started_at_the_first_look() -> None:
    assert simulate(1, lives_s=1000) == [0]


def test_what_answers_is_left_alone() -> None:
    assert len(simulate(3600, lives_s=10_000)) == 1


def test_one_that_dies_at_each_start_is_tried_with_growing_pauses_up_to_minutes() -> None:
    waited = pauses(simulate(24 * 3600, lives_s=None))
    assert waited == sorted(waited)
    assert waited[0] < 10
    assert 300 < waited[-1] < 310


@pytest.mark.parametrize("lives_s", [2.0, 15.0, 50.0])
def test_one_that_dies_soon_after_each_start_comes_back_within_ten_seconds_each_time(lives_s: float) -> None:
    waited = pauses(simulate(3600, lives_s))
    assert len(waited) > 50
    assert max(waited) <= STARTS_IN_S + max(lives_s, 8) + POLL_S


def test_one_that_dies_at_once_after_each_start_is_not_started_at_full_speed() -> None:
    waited = pauses(simulate(3600, lives_s=0.1))
    assert waited[-1] >= 8


def test_one_that_has_lasted_is_started_at_once_again() -> None:
    watch = Watch()
    for second in range(0, 40, 2):
        watch = watch.saw(False, second).started(second, answered=False)
    assert not watch.saw(False, 40).may_start(40)
    for second in range(400, 470, 2):
        watch = watch.saw(True, second)
    watch = watch.saw(False, 472)
    assert watch.may_start(472)
    assert watch.started(473, answered=True).wait_until == 474


@pytest.mark.parametrize("now", [0.0, 1e9])
def test_what_is_not_meant_to_answer_is_never_started(now: float) -> None:
    watch = Watch().saw(False, now).started(now, answered=False).saw(None, now)
    assert watch == Watch()
    assert not watch.may_start(now)


def test_silence_is_counted_from_the_first_look_without_an_answer() -> None:
    watch = Watch().saw(True, 5).saw(False, 7).saw(False, 19)
    assert watch.silent_s(20) == 13
    assert watch.saw(True, 21).silent_s(30) == 0


def test_thousands_of_starts_in_vain_are_no_error() -> None:
    watch = Watch()
    for _ in range(5000):
        watch = watch.started(0, answered=False)
    assert watch.wait_until == 300
