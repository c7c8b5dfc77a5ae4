"""What people are asked, and what their no does."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from include import report
from include.context import Context
from include.releases.records import Release, ReleaseId
from include.tasks import approve_release
from include.tasks.approve_release import Question
from include.triton.servers import Ports, ServerPlan, ServerRecord
from tests.support.report import report as example
from tests.support.report import verdict

ASKED = {"require_approval": True}


@pytest.fixture
def release(context: Context) -> Release:
    releases = context.releases
    opened = releases.open("org--model", target="openvino", repository="r", chain={}, request={})
    report.write(releases.path(opened), example(verdict("quality", rating="ACCEPT")))
    return releases.judge(opened, "accepted")


@pytest.fixture
def candidate(tmp_path: Path) -> ServerRecord:
    ports = Ports(http=8123, grpc=1, metrics=2)
    plan = ServerPlan(target="openvino", repository=tmp_path, argv=("triton",), env={}, ports=ports)
    return ServerRecord(plan=plan, log=tmp_path / "log")


def ask(context: Context, release: Release, candidate: ServerRecord, params: dict[str, Any]) -> Question | None:
    return approve_release.question(context, ReleaseId(model=release.model, number=release.number), candidate, params)


def test_without_the_param_nobody_is_asked(context: Context, release: Release, candidate: ServerRecord) -> None:
    assert ask(context, release, candidate, {}) is None


def test_nobody_is_asked_about_what_is_live(context: Context, release: Release, candidate: ServerRecord) -> None:
    context.releases.make_live(release)
    assert ask(context, release, candidate, ASKED) is None


def test_the_question_has_the_scores_and_where_the_candidate_answers(
    context: Context, release: Release, candidate: ServerRecord
) -> None:
    asked = ask(context, release, candidate, ASKED)
    assert asked
    assert asked.subject == "Release 1 of org--model: make it live?"
    assert "| quality | ACCEPT | found by quality |" in asked.body
    assert "http://127.0.0.1:8123" in asked.body


@pytest.mark.parametrize(
    ("params", "approvers", "timeout"),
    [
        ({}, (), timedelta(hours=24)),
        ({"approvers": ["ann", "bob"], "approval_timeout_h": 0.5}, ("ann", "bob"), timedelta(minutes=30)),
        ({"approvers": "ann\n bob \n"}, ("ann", "bob"), timedelta(hours=24)),
    ],
    ids=["defaults", "set", "as the form sends it"],
)
def test_the_request_says_who_decides_and_until_when(
    context: Context,
    release: Release,
    candidate: ServerRecord,
    params: dict[str, Any],
    approvers: tuple[str, ...],
    timeout: timedelta,
) -> None:
    asked = ask(context, release, candidate, {**ASKED, **params})
    assert asked
    assert (asked.approvers, asked.timeout) == (approvers, timeout)


def test_a_no_rejects_the_release(context: Context, release: Release) -> None:
    approve_release.reject(context, ReleaseId(model=release.model, number=release.number))
    assert context.releases.state(context.releases.get(release.model, release.number)) == "rejected"


def test_a_no_takes_nothing_from_a_release_that_has_been_live(context: Context, release: Release) -> None:
    other = context.releases.open("org--model", target="openvino", repository="other", chain={}, request={})
    for promoted in (release, other):
        context.releases.make_live(promoted)
        context.releases.record_promotion()
    approve_release.reject(context, ReleaseId(model=release.model, number=release.number))
    assert context.releases.state(context.releases.get(release.model, release.number)) == "retired"
