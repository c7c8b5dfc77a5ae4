"""`decide`, exhausted: every combination of what is and what should be."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from include.artifacts.pins import run_slug
from include.live.decide import Action, Actual, Desired, Step, Stop, Suspension, decide

NOON = datetime(2026, 12, 1, 12, tzinfo=UTC)
LIVE = Path("/s/servers/release-m-1.json")
OLD = Path("/s/servers/release-m-2.json")
OTHER = Path("/s/servers/release-other-1.json")
MINE = Path(f"/s/servers/candidate-{run_slug('mine')}.json")
OVER = Path(f"/s/servers/candidate-{run_slug('over')}.json")
SERVERS = (LIVE, OLD, MINE, OVER)


def subsets(paths: tuple[Path, ...]) -> list[tuple[Path, ...]]:
    return [chosen for size in range(len(paths) + 1) for chosen in itertools.combinations(paths, size)]


SUSPENSIONS = (
    None,
    *(Suspension(run=r, since=NOON + timedelta(hours=h)) for r in ("mine", "over", "") for h in (-1, 1)),
)


def states() -> Iterator[tuple[Desired, Actual]]:
    """What should be: live or not, suspended or not, runs, kept servers. What is: servers, readiness, proxy."""
    for live, suspension, runs, keep in itertools.product(
        (LIVE, None), SUSPENSIONS, (frozenset({"mine"}), frozenset()), (frozenset(), frozenset({OLD}))
    ):
        desired = Desired(live, NOON if live else None, suspension, runs, keep)
        for servers, ready, proxy, upstream in itertools.product(
            subsets(SERVERS), (True, False), (True, False), (True, False)
        ):
            if not ready or (live and LIVE in servers):
                yield desired, Actual(servers, ready, proxy, upstream)


def suspended(desired: Desired) -> bool:
    """Away on purpose: for a run that is not over, and no promotion since."""
    away = desired.suspension
    return away is not None and away.run in desired.runs and not (desired.live and away.since < NOON)


def stopped(actions: list[Action]) -> set[Path]:
    return {action.record for action in actions if isinstance(action, Stop)}


def perform(actions: list[Action], desired: Desired, actual: Actual) -> tuple[Desired, Actual]:
    """The state after the actions."""
    servers = [path for path in actual.servers if path not in stopped(actions)]
    if Step.LAUNCH in actions:
        servers = [*(path for path in servers if path != LIVE), LIVE]
    if Step.END_SUSPENSION in actions or Step.DROP_SUSPENSION in actions:
        desired = Desired(desired.live, desired.live_since, None, desired.runs, desired.keep)
    points = Step.POINT in actions
    return desired, Actual(
        servers=tuple(servers),
        ready=actual.ready or Step.LAUNCH in actions,
        proxy_runs=actual.proxy_runs or points,
        has_upstream=(actual.has_upstream or points) and Step.WITHDRAW not in actions,
    )


def test_there_are_many_states() -> None:
    assert len(list(states())) > 2000


def test_in_every_state_what_is_needed_stays_and_the_rest_is_stopped() -> None:
    for desired, actual in states():
        needed = {*desired.keep, desired.live} | ({MINE} if "mine" in desired.runs else set())
        assert stopped(decide(desired, actual)) == set(actual.servers) - needed, (desired, actual)


def test_in_every_state_the_live_release_answers_unless_it_is_suspended() -> None:
    for desired, actual in states():
        actions = decide(desired, actual)
        serves = desired.live is not None and not suspended(desired)
        assert (Step.POINT in actions) is serves
        assert (Step.LAUNCH in actions) is (serves and not actual.ready)
        assert (Step.WITHDRAW in actions) is (desired.live is None and actual.proxy_runs and actual.has_upstream)


def test_in_every_state_the_order_loses_no_request_and_needs_no_room_for_two() -> None:
    for desired, actual in states():
        actions = decide(desired, actual)
        assert len(actions) == len(set(actions)), "nothing is done twice"
        record = actions.index(Step.RECORD_PROMOTION)
        assert all(isinstance(action, Step) and "SUSPENSION" in action.name for action in actions[:record])
        stops = [n for n, action in enumerate(actions) if isinstance(action, Stop)]
        if Step.LAUNCH in actions:
            launch = actions.index(Step.LAUNCH)
            assert all(n < launch for n in stops)
            assert actions[launch + 1] is Step.POINT
        else:
            runs = actual.proxy_runs or Step.POINT in actions
            assert (Step.DRAIN in actions) is (bool(stops) and runs)
            before = [Step.POINT, Step.WITHDRAW, Step.DRAIN]
            assert all(actions.index(step) < n for n in stops for step in before if step in actions)


def test_in_every_state_a_suspension_ends_if_it_has_no_reason_any_more() -> None:
    for desired, actual in states():
        actions = decide(desired, actual)
        ends = {Step.END_SUSPENSION, Step.DROP_SUSPENSION} & set(actions)
        assert bool(ends) is (desired.suspension is not None and not suspended(desired))
        assert len(ends) <= 1


def test_from_every_state_a_second_time_there_is_nothing_left_to_change() -> None:
    for desired, actual in states():
        after = perform(decide(desired, actual), desired, actual)
        left = set(decide(*after))
        assert left <= {Step.RECORD_PROMOTION, Step.POINT}, (desired, actual)


def test_from_every_state_one_that_is_cut_off_ends_the_same() -> None:
    for desired, actual in states():
        actions = decide(desired, actual)
        whole = perform(actions, desired, actual)
        for done in range(len(actions)):
            part = perform(actions[:done], desired, actual)
            resumed = perform(decide(*part), *part)
            assert resumed[0] == whole[0]
            assert set(resumed[1].servers) == set(whole[1].servers)
            assert resumed[1].ready == whole[1].ready


RUN = frozenset({"mine"})
FOR_RUN = Suspension(run="mine", since=NOON + timedelta(hours=1))
REPLACED = Suspension(run="mine", since=NOON - timedelta(hours=1))
FOR_ROLLBACK = Suspension(run="", since=NOON + timedelta(hours=1))


@pytest.mark.parametrize(
    ("desired", "actual", "actions"),
    [
        (Desired(), Actual(), [Step.RECORD_PROMOTION]),
        (
            Desired(),
            Actual((OVER,), proxy_runs=True, has_upstream=True),
            [Step.RECORD_PROMOTION, Step.WITHDRAW, Step.DRAIN, Stop(OVER)],
        ),
        (Desired(), Actual((OVER,), has_upstream=True), [Step.RECORD_PROMOTION, Stop(OVER)]),
        (Desired(LIVE, NOON), Actual((LIVE,), True, True, True), [Step.RECORD_PROMOTION, Step.POINT]),
        (
            Desired(LIVE, NOON),
            Actual((LIVE, OLD), True, True, True),
            [Step.RECORD_PROMOTION, Step.POINT, Step.DRAIN, Stop(OLD)],
        ),
        (Desired(LIVE, NOON, keep=frozenset({OLD})), Actual((LIVE, OLD), True), [Step.RECORD_PROMOTION, Step.POINT]),
        (
            Desired(LIVE, NOON),
            Actual((LIVE, OLD, OVER), False, True, True),
            [Step.RECORD_PROMOTION, Stop(OLD), Stop(OVER), Step.LAUNCH, Step.POINT],
        ),
        (  # the live server of another name is in use, whatever this name needs
            Desired(LIVE, NOON, keep=frozenset({OTHER})),
            Actual((LIVE, OLD, OTHER), False, True, True),
            [Step.RECORD_PROMOTION, Stop(OLD), Step.LAUNCH, Step.POINT],
        ),
        (
            Desired(keep=frozenset({OTHER})),
            Actual((LIVE, OTHER), proxy_runs=True, has_upstream=True),
            [Step.RECORD_PROMOTION, Step.WITHDRAW, Step.DRAIN, Stop(LIVE)],
        ),
        (
            Desired(LIVE, NOON, runs=RUN),
            Actual((MINE,), False, True),
            [Step.RECORD_PROMOTION, Step.LAUNCH, Step.POINT],
        ),
        (Desired(LIVE, NOON, FOR_RUN, RUN), Actual((MINE,), False, True, True), [Step.RECORD_PROMOTION]),
        (
            Desired(LIVE, NOON, FOR_RUN, RUN),
            Actual((MINE, OLD), False, True, True),
            [Step.RECORD_PROMOTION, Step.DRAIN, Stop(OLD)],
        ),
        (
            Desired(LIVE, NOON, FOR_RUN),
            Actual((MINE,), False, True, True),
            [Step.DROP_SUSPENSION, Step.RECORD_PROMOTION, Stop(MINE), Step.LAUNCH, Step.POINT],
        ),
        (
            Desired(LIVE, NOON, FOR_ROLLBACK),
            Actual((), False, True, True),
            [Step.DROP_SUSPENSION, Step.RECORD_PROMOTION, Step.LAUNCH, Step.POINT],
        ),
        (
            Desired(LIVE, NOON, REPLACED, RUN),
            Actual((LIVE,), True, True, True),
            [Step.END_SUSPENSION, Step.RECORD_PROMOTION, Step.POINT],
        ),
    ],
)
def test_what_is_done(desired: Desired, actual: Actual, actions: list[Action]) -> None:
    assert decide(desired, actual) == actions
