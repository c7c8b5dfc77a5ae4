"""A process that changes the live release is killed before each of its changes in turn: one release stays live."""

from __future__ import annotations

from itertools import count

import pytest

from include.releases.records import Release
from tests.support.live import NAME, Deployment, killed_before_change

pytestmark = pytest.mark.slow


@pytest.fixture
def pair(deployment: Deployment, first: Release) -> list[Release]:
    return [first, deployment.release("deux")]


def other(deployment: Deployment, pair: list[Release]) -> Release:
    """The release that is not live."""
    return next(release for release in pair if release.name != deployment.releases.live().name)


def check_recovery(deployment: Deployment) -> None:
    """One release is live, whatever happened; and it answers once a successor of the killed process has reconciled."""
    assert deployment.states().count("live") == 1
    deployment.live().reconcile()
    live = deployment.releases.live()
    assert deployment.answer() == {1: "un", 2: "deux"}[live.number]
    assert live.promotions
    assert deployment.releases.current(live.model) == live
    assert deployment.serving() == [f"release-org--name-{live.number}"]
    assert deployment.live().suspended(NAME) is None


@pytest.mark.parametrize("swap", ["blue_green", "recreate"])
def test_rollback(deployment: Deployment, pair: list[Release], swap: str) -> None:
    outcomes = []
    for number in count(1):
        release = other(deployment, pair)
        killed = killed_before_change(number, deployment.live().promote, release, swap=swap)
        outcomes.append(deployment.releases.live().name == release.name)
        check_recovery(deployment)
        if not killed:
            break
    assert outcomes == sorted(outcomes), "never live before the commit point, always after it"
    assert len(outcomes) > len(set(outcomes)) == 2


@pytest.mark.parametrize("swap", ["blue_green", "recreate"])
def test_promote(deployment: Deployment, pair: list[Release], swap: str) -> None:
    outcomes = []
    for number in count(1):
        release, run = other(deployment, pair), f"run-{number}"
        deployment.context(run).store.get("repositories", release.repository)
        if swap == "recreate":
            deployment.live(run).suspend(NAME)
        candidate = deployment.candidate(release, run)
        killed = killed_before_change(number, deployment.live(run).promote, release, candidate=candidate)
        outcomes.append(deployment.releases.live().name == release.name)
        deployment.live(run).finish_run(NAME)
        check_recovery(deployment)
        if not killed:
            break
    assert outcomes == sorted(outcomes)
    assert len(outcomes) > len(set(outcomes)) == 2


def test_reconcile(deployment: Deployment, pair: list[Release]) -> None:
    for number in count(1):
        deployment.stop_proxy()
        deployment.kill_live_server()
        deployment.candidate(other(deployment, pair), "gone")
        deployment.context().pins.drop("gone")
        killed = killed_before_change(number, deployment.live().reconcile)
        check_recovery(deployment)
        if not killed:
            break
    assert number > 5


def test_retire(deployment: Deployment, first: Release) -> None:
    outcomes = []
    for number in count(1):
        deployment.live().promote(first)
        killed = killed_before_change(number, deployment.live().retire, NAME)
        live = deployment.releases.live(NAME)
        outcomes.append(live is None)
        deployment.live().reconcile()
        assert deployment.answer(NAME) == ("un" if live else "HTTP 404")
        assert deployment.serving() == (["release-org--name-1"] if live else [])
        assert len(deployment.releases.get(first.model, 1).retirements) >= sum(outcomes)
        if not killed:
            break
    assert outcomes == sorted(outcomes)
    assert len(outcomes) > len(set(outcomes)) == 2
