"""People are asked what they decide on, only those who may decide do, and both is kept in the release."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from include import report
from include.context import Context
from include.errors import UserError
from include.releases.approval import Answer
from include.releases.records import RELEASE_FILE, Release
from include.releases.rule import Rule
from include.requests.release import ReleaseRequest
from include.settings import Settings
from include.tasks import approve_release
from include.tasks.approve_release import Question
from include.triton.servers import Ports, ServerPlan, ServerRecord
from tests.support.live import Deployment
from tests.support.report import report as example
from tests.support.report import verdict

ASKED = {"require_approval": True}
ID = "question-1"


@pytest.fixture
def release(context: Context) -> Release:
    opened = Deployment(context.settings).release("un", model="org--model")
    report.write(context.releases.path(opened), example(verdict("quality", rating="ACCEPT")))
    return opened


@pytest.fixture
def candidate(tmp_path: Path) -> ServerRecord:
    ports = Ports(http=8123, grpc=1, metrics=2)
    plan = ServerPlan(target="openvino", repository=tmp_path, argv=("triton",), env={}, ports=ports)
    return ServerRecord(plan=plan, log=tmp_path / "log")


def ask(
    context: Context, release: Release, candidate: ServerRecord | None = None, question: str = ID, **params: Any
) -> Question | str:
    return approve_release.question(context, question, release.id, candidate, params)


def with_settings(context: Context, **settings: Any) -> Context:
    return replace(context, settings=context.settings.model_copy(update=settings))


def no_or_yes(approved: bool, by: str = "ann", comment: str = "") -> Answer:
    return Answer(approved=approved, by=by, name=by, at=datetime.now(UTC), comment=comment)


def yes(context: Context, question: str = ID, by: str = "ann", comment: str = "") -> None:
    approve_release.answer(context, question, no_or_yes(True, by, comment))


def no(context: Context, question: str = ID, by: str = "ann", comment: str = "") -> None:
    approve_release.answer(context, question, no_or_yes(False, by, comment))


def now(context: Context, release: Release) -> Release:
    return context.releases.get(release.model, release.number)


def may_go_live(context: Context, release: Release, **params: Any) -> bool:
    """Whether promotion takes the release as it is now."""
    try:
        Rule.of(context.settings, ReleaseRequest(**params)).check(context.releases, now(context, release))
    except UserError:
        return False
    return True


def promoted(context: Context, release: Release) -> Release:
    context.releases.make_live(release)
    return context.releases.record_promotion(release.served_name)


def test_without_the_param_nobody_is_asked(context: Context, release: Release) -> None:
    assert ask(context, release) == approve_release.NOT_REQUIRED
    assert may_go_live(context, release)


def test_nobody_is_asked_about_what_is_live(context: Context, release: Release) -> None:
    promoted(context, release)
    assert ask(context, release, **ASKED) == "release org--model/1 is live already"
    assert may_go_live(context, release, **ASKED)


def test_the_question_has_the_scores_and_where_the_candidate_answers(
    context: Context, release: Release, candidate: ServerRecord
) -> None:
    asked = ask(context, release, candidate, **ASKED)
    assert isinstance(asked, Question)
    assert asked.subject == "Release 1 of org--model: make it live as model?"
    assert "| quality | ACCEPT | found by quality |" in asked.body
    assert "http://127.0.0.1:8123" in asked.body


def test_the_question_says_that_the_release_replaces_another_model(context: Context, release: Release) -> None:
    request = {"model": "org/other", "served_name": "chat"}
    promoted(context, context.releases.open("org--other", target="t", repository="r", chain={}, request=request))
    taker = Deployment(context.settings).release("trois", model="org--third", served_name="chat")
    asked = ask(context, taker, **ASKED)
    assert isinstance(asked, Question)
    assert "It replaces **org/other**, release org--other/1, which has this name now." in asked.body


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
    context: Context, release: Release, params: dict[str, Any], approvers: tuple[str, ...], timeout: timedelta
) -> None:
    asked = ask(context, release, **ASKED, **params)
    assert isinstance(asked, Question)
    assert (asked.approvers, asked.timeout) == (approvers, timeout)


@pytest.mark.parametrize(
    ("settings", "params", "approvers"),
    [
        ({"require_approval": True}, {}, ()),
        ({"require_approval": True}, {"approvers": ["cat"]}, ("cat",)),
        ({"approvers": ("ann", "bob")}, {}, ("ann", "bob")),
        ({"approvers": ("ann", "bob")}, {"approvers": ["bob"]}, ("bob",)),
        ({"approvers": ("ann", "bob")}, {"require_approval": True}, ("ann", "bob")),
    ],
)
def test_the_deployment_asks_whatever_the_request_says(
    context: Context, release: Release, settings: dict[str, Any], params: dict[str, Any], approvers: tuple[str, ...]
) -> None:
    forced = with_settings(context, **settings)
    asked = ask(forced, release, **params)
    assert isinstance(asked, Question)
    assert asked.approvers == approvers
    assert not may_go_live(forced, release, **params)


def test_a_request_cannot_name_other_approvers_than_the_deployment(context: Context, release: Release) -> None:
    with pytest.raises(UserError, match=r"cat may not approve.*\n.*approvers\n.*ann, bob"):
        ask(with_settings(context, approvers=("ann", "bob")), release, approvers=["ann", "cat"])


@pytest.mark.parametrize("text", ["ann,bob", " ann , bob,", "ann,,bob"])
def test_the_setting_names_approvers_with_commas_between(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("HF2TRITON_APPROVERS", text)
    assert Settings().approvers == ("ann", "bob")


@pytest.mark.parametrize("where", ["request", "setting"])
def test_an_approver_who_does_not_exist_is_named(context: Context, release: Release, where: str) -> None:
    known = replace(context, find_users=lambda: frozenset({"ann", "bob"}))
    params = {"approvers": ["ann", "anne"]} if where == "request" else {}
    if where == "setting":
        known = with_settings(known, approvers=("ann", "anne"))
    with pytest.raises(UserError, match=r"no user anne (.|\n)*ann, bob"):
        ask(known, release, **ASKED, **params)
    assert now(context, release).approvals == ()


def test_where_users_cannot_be_listed_the_log_says_so(context: Context, release: Release) -> None:
    said: list[str] = []
    assert ask(replace(context, log=said.append), release, **ASKED, approvers=["17"])
    assert "the approvers are not checked" in said[0]


def test_a_yes_is_kept_with_who_when_and_why_and_lets_the_release_go_live(context: Context, release: Release) -> None:
    ask(context, release, **ASKED)
    assert not may_go_live(context, release, **ASKED)
    yes(context, comment="measured by hand")
    assert may_go_live(context, release, **ASKED)
    kept = json.loads((context.releases.path(release) / RELEASE_FILE).read_text())["approvals"][0]
    assert (kept["dag"], kept["run"]) == (context.dag_id, context.run_id)
    assert kept["content"] == context.releases.content(release)
    assert (kept["answer"]["by"], kept["answer"]["comment"]) == ("ann", "measured by hand")
    assert report.read(context.releases.path(release)).approvals == now(context, release).approvals


def test_a_no_rejects_the_release_and_keeps_who_and_why(context: Context, release: Release) -> None:
    ask(context, release, **ASKED)
    no(context, comment="too slow")
    assert context.releases.state(now(context, release)) == "rejected"
    (kept,) = report.read(context.releases.path(release)).approvals
    assert kept.answer.line.startswith("rejected by ann at ")
    assert kept.answer.line.endswith(": too slow")
    page = (context.releases.path(release) / report.HTML_FILE).read_text()
    assert "rejected by ann" in page
    assert "too slow" in page


def test_no_answer_in_time_is_a_no(context: Context, release: Release) -> None:
    ask(context, release, **ASKED)
    no(context, by="")
    assert "nobody answered in time" in now(context, release).approvals[0].answer.line
    assert context.releases.state(now(context, release)) == "rejected"


def test_nobody_is_asked_about_what_was_rejected(context: Context, release: Release) -> None:
    ask(context, release, **ASKED)
    no(context, comment="too slow")
    with pytest.raises(UserError, match="was rejected .*by ann.*too slow"):
        ask(context, release, **ASKED, question="again")


def test_a_no_takes_nothing_from_a_release_that_has_been_live(context: Context, release: Release) -> None:
    promoted(context, release)
    promoted(context, Deployment(context.settings).release("deux", model="org--model"))
    ask(context, release, **ASKED)
    no(context)
    assert context.releases.state(now(context, release)) == "retired"
    assert not may_go_live(context, release, **ASKED)


def skip(context: Context, release: Release) -> None:
    """A task that was set to success or to skipped has asked, or not even that, and nobody has answered."""


def ask_only(context: Context, release: Release) -> None:
    ask(context, release, **ASKED)


def yes_to_another(context: Context, release: Release) -> None:
    other = Deployment(context.settings).release("deux", model="org--model")
    ask(context, other, **ASKED)
    yes(context)


def yes_to_other_bytes(context: Context, release: Release) -> None:
    ask(context, release, **ASKED)
    yes(context)
    manifest = context.settings.artifacts / "repositories" / release.repository / "manifest.json"
    fields = json.loads(manifest.read_text())
    fields["outputs"][0]["sha256"] = "0" * 64
    manifest.write_text(json.dumps(fields))


def yes_that_was_used(context: Context, release: Release) -> None:
    ask(context, release, **ASKED)
    yes(context)
    promoted(context, release)
    promoted(context, Deployment(context.settings).release("deux", model="org--model"))


def yes_then_no(context: Context, release: Release) -> None:
    promoted(context, release)
    promoted(context, Deployment(context.settings).release("deux", model="org--model"))
    ask(context, release, **ASKED)
    ask(replace(context, run_id="manual__2"), release, question="second", **ASKED)
    yes(context)
    no(context, question="second")


def yes_of_a_former_approver(context: Context, release: Release) -> None:
    ask(context, release, **ASKED, approvers=["bob"])
    yes(context, by="bob")


@pytest.mark.parametrize(
    "happened",
    [skip, ask_only, yes_to_another, yes_to_other_bytes, yes_that_was_used, yes_then_no, yes_of_a_former_approver],
)
def test_without_its_own_approval_a_release_does_not_go_live(
    context: Context, release: Release, happened: Callable[[Context, Release], None]
) -> None:
    happened(context, release)
    rule = Rule.of(context.settings, ReleaseRequest(**ASKED, approvers=["ann"]))
    with pytest.raises(UserError, match="release org--model/1 has not been approved(.|\n)*state approves nothing"):
        rule.check(context.releases, now(context, release))


def test_an_approval_that_was_not_used_holds_for_the_next_run(context: Context, release: Release) -> None:
    ask(context, release, **ASKED)
    yes(context)
    assert "is approved by ann" in str(ask(replace(context, run_id="manual__2"), release, question="again", **ASKED))
    assert may_go_live(context, release, **ASKED)


def test_a_cleared_task_asks_again_and_the_old_question_decides_nothing(context: Context, release: Release) -> None:
    ask(context, release, **ASKED)
    ask(context, release, **ASKED, question="again")
    with pytest.raises(UserError, match=r"no release has a record of this question(.|\n)*asks again"):
        yes(context)
    assert not may_go_live(context, release, **ASKED)
    yes(context, question="again")
    assert may_go_live(context, release, **ASKED)


@pytest.mark.parametrize("by", ["eve", "Anonymous", ""])
def test_only_an_approver_approves(context: Context, release: Release, by: str) -> None:
    ask(context, release, **ASKED, approvers=["ann"])
    with pytest.raises(UserError, match=r"not among the approvers: ann(.|\n)*asks again"):
        yes(context, by=by)
    assert now(context, release).approvals[0].answer is None


def test_an_approval_by_nobody_is_none(context: Context, release: Release) -> None:
    ask(context, release, **ASKED)
    with pytest.raises(UserError, match="nobody is not among the approvers"):
        yes(context, by="")


def of_ann(context: Context, **settings: Any) -> Context:
    return with_settings(replace(context, find_requester=lambda: "ann"), four_eyes=True, **settings)


def test_who_triggered_the_run_is_not_asked_if_four_eyes_are_wanted(context: Context, release: Release) -> None:
    asked = ask(of_ann(context, approvers=("ann", "bob")), release)
    assert isinstance(asked, Question)
    assert asked.approvers == ("bob",)


def test_four_eyes_ask_nobody_who_is_not_asked_anyway(context: Context, release: Release) -> None:
    assert ask(of_ann(context), release, approvers=["ann"]) == approve_release.NOT_REQUIRED


def test_four_eyes_need_a_second_approver(context: Context, release: Release) -> None:
    with pytest.raises(UserError, match="ann has triggered this run, and is the only approver"):
        ask(of_ann(context, approvers=("ann",)), release)


def test_who_triggered_the_run_may_reject_it_and_not_approve_it(context: Context, release: Release) -> None:
    own = of_ann(context)
    ask(own, release, **ASKED)
    with pytest.raises(UserError, match=r"ann has triggered this run(.|\n)*HF2TRITON_FOUR_EYES"):
        yes(own)
    no(own)
    assert context.releases.state(now(context, release)) == "rejected"


def test_a_run_of_the_scheduler_is_approved_by_anyone(context: Context, release: Release) -> None:
    scheduled = with_settings(context, four_eyes=True)
    ask(scheduled, release, **ASKED)
    yes(scheduled)
    assert may_go_live(scheduled, release, **ASKED)


def test_a_person_decides_where_the_gates_have_not(context: Context, release: Release) -> None:
    context.releases.judge(release, "undecided")
    assert not may_go_live(context, release)
    with pytest.raises(UserError, match="has not been approved: nobody was asked"):
        Rule.of(context.settings).check(context.releases, now(context, release))
    assert ask(context, release)
    assert not may_go_live(context, release)
    yes(context)
    assert may_go_live(context, release)
    promoted(context, release)
    assert now(context, release).verdict == "accepted"


def test_a_no_rejects_what_the_gates_have_not_decided(context: Context, release: Release) -> None:
    context.releases.judge(release, "undecided")
    ask(context, release)
    no(context)
    assert now(context, release).verdict == "rejected"
    assert not may_go_live(context, release, **ASKED)
