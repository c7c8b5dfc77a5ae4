"""Questions and answers count in the order in which they were recorded, whatever the clock says."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from include.errors import UserError
from include.releases.approval import Answer, Approval
from include.releases.records import RELEASE_FILE, Release, ReleaseStore
from include.releases.rule import Rule

NOON = datetime(2026, 6, 1, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
RULE = Rule(required=True)


@pytest.fixture
def store(tmp_path: Path) -> ReleaseStore:
    return ReleaseStore(tmp_path / "releases")


def release(store: ReleaseStore, repository: str = "r") -> Release:
    made = store.open("org--model", target="t", repository=repository, chain={}, request={})
    return store.judge(made, "accepted")


def asked(store: ReleaseStore, about: Release, question: str, at: datetime, run: str = "") -> Approval:
    """A question of its own run unless ``run`` is given."""
    approval = Approval(question=question, dag="d", run=run or question, content="", promotions=0, asked_at=at)
    store.record_question(about, approval)
    return approval


def answered(store: ReleaseStore, about: Release, question: str, approved: bool, at: datetime) -> None:
    asked(store, about, question, at)
    store.record_answer(question, Answer(approved=approved, by="ann", at=at))


@pytest.fixture(autouse=True)
def with_content(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ReleaseStore, "content", lambda self, release: "")


def may_go_live(store: ReleaseStore, about: Release) -> bool:
    try:
        RULE.check(store, store.get(about.model, about.number))
    except UserError:
        return False
    return True


@pytest.mark.parametrize("later", [HOUR, -HOUR, timedelta(0)], ids=["forwards", "set back", "stands still"])
@pytest.mark.parametrize("last", [True, False], ids=["yes", "no"])
def test_the_last_answer_counts(store: ReleaseStore, last: bool, later: timedelta) -> None:
    about = release(store)
    store.make_live(release(store, "other"))
    answered(store, about, "first", not last, NOON)
    answered(store, about, "second", last, NOON + later)
    assert may_go_live(store, about) is last


def test_the_order_of_answers_is_not_that_of_questions(store: ReleaseStore) -> None:
    about = release(store)
    for question in ("first", "second"):
        asked(store, about, question, NOON)
    store.record_answer("second", Answer(approved=True, at=NOON))
    store.record_answer("first", Answer(approved=False, at=NOON - HOUR))
    assert not may_go_live(store, about)


@pytest.mark.parametrize("later", [HOUR, -HOUR, timedelta(0)], ids=["forwards", "set back", "stands still"])
def test_a_run_goes_by_its_last_question(store: ReleaseStore, later: timedelta) -> None:
    first, second = release(store), release(store, "other")
    asked(store, second, "1", NOON, run="run")
    asked(store, first, "2", NOON + later, run="run")
    assert store.asked_by("d", "run").id == first.id
    asked(store, second, "3", NOON, run="run")
    assert store.asked_by("d", "run").id == second.id


def test_records_without_numbers_go_by_time_and_come_before_those_with(store: ReleaseStore) -> None:
    about = release(store)
    for question, approved, at in (("late", True, NOON + HOUR), ("early", False, NOON)):
        answered(store, about, question, approved, at)
    without_numbers(store, about)
    assert may_go_live(store, about)
    answered(store, about, "new", False, NOON - HOUR)
    assert not may_go_live(store, about)


def without_numbers(store: ReleaseStore, about: Release) -> None:
    """Makes the record one of an earlier version."""
    path = store.path(about) / RELEASE_FILE
    record = json.loads(path.read_text())
    for approval in record["approvals"]:
        del approval["order"], approval["answer"]["order"]
    path.write_text(json.dumps(record))
