"""What people are asked, and what their no does."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from include import report
from include.context import Worker
from include.releases.records import Release
from include.tasks import ReleaseRef, approve_release
from include.tasks.approve_release import Question
from include.triton.servers import Ports, ServerPlan, ServerRecord
from tests.include.report.example import report as example
from tests.include.report.example import verdict

ASKED = {"require_approval": True}


@pytest.fixture
def release(worker: Worker) -> Release:
    releases = worker.releases
    opened = releases.open("org--model", target="openvino", repository="r", chain={}, request={})
    report.write(releases.path(opened), example(verdict("quality", rating="ACCEPT")))
    return releases.judge(opened, "accepted")


@pytest.fixture
def candidate(tmp_path: Path) -> ServerRecord:
    ports = Ports(http=8123, grpc=1, metrics=2)
    plan = ServerPlan(target="openvino", repository=tmp_path, argv=("triton",), env={}, ports=ports)
    return ServerRecord(plan=plan, log=tmp_path / "log")


def ask(worker: Worker, release: Release, candidate: ServerRecord, params: dict[str, Any]) -> Question | None:
    return approve_release.question(worker, ReleaseRef(model=release.model, number=release.number), candidate, params)


def test_without_the_param_nobody_is_asked(worker: Worker, release: Release, candidate: ServerRecord) -> None:
    assert ask(worker, release, candidate, {}) is None


def test_nobody_is_asked_about_what_is_live(worker: Worker, release: Release, candidate: ServerRecord) -> None:
    worker.releases.make_live(release)
    assert ask(worker, release, candidate, ASKED) is None


def test_the_question_has_the_scores_and_where_the_candidate_answers(
    worker: Worker, release: Release, candidate: ServerRecord
) -> None:
    asked = ask(worker, release, candidate, ASKED)
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
    worker: Worker,
    release: Release,
    candidate: ServerRecord,
    params: dict[str, Any],
    approvers: tuple[str, ...],
    timeout: timedelta,
) -> None:
    asked = ask(worker, release, candidate, {**ASKED, **params})
    assert asked
    assert (asked.approvers, asked.timeout) == (approvers, timeout)


def test_a_no_rejects_the_release(worker: Worker, release: Release) -> None:
    approve_release.reject(worker, ReleaseRef(model=release.model, number=release.number))
    assert worker.releases.state(worker.releases.get(release.model, release.number)) == "rejected"


def test_a_no_takes_nothing_from_a_release_that_has_been_live(worker: Worker, release: Release) -> None:
    other = worker.releases.open("org--model", target="openvino", repository="other", chain={}, request={})
    for promoted in (release, other):
        worker.releases.make_live(promoted)
        worker.releases.settle()
    approve_release.reject(worker, ReleaseRef(model=release.model, number=release.number))
    assert worker.releases.state(worker.releases.get(release.model, release.number)) == "retired"
