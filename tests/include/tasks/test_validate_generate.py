"""What the verdicts of the gates make of a release."""

from __future__ import annotations

from pathlib import Path

import pytest

from include.context import Context
from include.errors import GateFailure
from include.gates import GateResult
from include.releases.ids import ReleaseId
from include.releases.records import Release
from include.tasks import ArtifactRef, Checked, check_request, validate_generate
from tests.support.live import Deployment
from tests.support.report import report, verdict

PARAMS = {"awq_group_size": 64, "calib_seq_len": 64, "max_input_len": 128, "max_seq_len": 256}
PASS, FAIL, ASK, SKIP = (verdict(f"of {outcome}", outcome) for outcome in ("pass", "fail", "ask", "skip"))


@pytest.fixture
def release(context: Context) -> Release:
    opened = Deployment(context.settings).release("un", model="org--model")
    context.releases.judge(opened, "candidate")
    return opened


def decided(context: Context, model: Path, release: Release, *verdicts: GateResult, swap: str = "blue_green") -> str:
    checked = check_request.run(context, {"model": str(model), "swap": swap, "served_name": "other", **PARAMS})
    _decide(context, checked, release, *verdicts)
    return verdict_of(context, release)


def _decide(context: Context, checked: Checked, release: Release, *verdicts: GateResult) -> None:
    validate_generate._decide(context, checked, release, report(*verdicts))


def verdict_of(context: Context, release: Release) -> str:
    return context.releases.get(release.model, release.number).verdict


@pytest.mark.parametrize(
    ("verdicts", "expected"),
    [((PASS, SKIP), "accepted"), ((PASS, ASK), "undecided"), ((ASK, SKIP), "undecided")],
    ids=["passed", "one asks", "one asks, one is skipped"],
)
def test_a_gate_that_asks_leaves_the_release_to_a_person(
    context: Context, model: Path, release: Release, verdicts: tuple[GateResult, ...], expected: str
) -> None:
    assert decided(context, model, release, *verdicts) == expected


@pytest.mark.parametrize(
    ("verdicts", "swap", "problem"),
    [
        ((FAIL, ASK), "blue_green", "gate of fail failed"),
        ((PASS, ASK), "recreate", "gate of ask is inconclusive, and with swap recreate no person can be asked"),
    ],
    ids=["one failed", "nobody can be asked"],
)
def test_a_release_that_cannot_be_decided_on_is_rejected(
    context: Context, model: Path, release: Release, verdicts: tuple[GateResult, ...], swap: str, problem: str
) -> None:
    with pytest.raises(GateFailure, match=problem):
        decided(context, model, release, *verdicts, swap=swap)
    assert verdict_of(context, release) == "rejected"


def test_a_release_that_was_live_is_asked_about_again_but_never_rejected(
    context: Context, model: Path, release: Release
) -> None:
    context.releases.make_live(release)
    context.releases.record_promotion(release.served_name)
    assert decided(context, model, release, PASS, ASK) == "undecided"
    with pytest.raises(GateFailure):
        decided(context, model, release, FAIL)
    assert verdict_of(context, release) == "undecided"


@pytest.mark.parametrize("verdicts", [(FAIL,), (PASS, ASK)], ids=["fails", "asks"])
def test_a_trial_that_does_not_end_well_is_not_that_of_a_release_that_was_live(
    context: Context, model: Path, release: Release, verdicts: tuple[GateResult, ...]
) -> None:
    checked = check_request.run(context, {"model": str(model), "served_name": "other", **PARAMS})
    assert validate_generate._tried(context, checked, release, report(*verdicts)).id == release.id
    context.releases.make_live(release)
    context.releases.record_promotion(release.served_name)
    live = context.releases.live(release.served_name)
    assert validate_generate._tried(context, checked, live, report(PASS)) == live
    again = validate_generate._tried(context, checked, release, report(*verdicts))
    assert (again.number, again.verdict, again.promotions) == (live.number + 1, "candidate", ())
    assert (again.repository, again.chain, again.request["served_name"]) == (live.repository, live.chain, "other")
    assert context.releases.live(release.served_name) == live
    made_of = {"target": live.target, "repository": live.repository, "chain": live.chain}
    for one in (live, again):
        assert context.releases.open(live.model, **made_of, request=one.request).id == one.id


def test_a_run_without_a_candidate_is_that_of_the_live_release_whatever_was_tried_since(
    context: Context, model: Path, release: Release
) -> None:
    checked = check_request.run(context, {"model": str(model), "served_name": release.served_name, **PARAMS})
    context.releases.make_live(release)
    context.releases.record_promotion(release.served_name)
    again = validate_generate._tried(context, checked, release, report(PASS, ASK))
    repository = ArtifactRef(kind="repositories", name=release.repository, reused=True)
    found = validate_generate._release_of(context, checked, repository, release.chain, None)
    assert (found.id, again.id) == (release.id, ReleaseId(model=release.model, number=release.number + 1))
