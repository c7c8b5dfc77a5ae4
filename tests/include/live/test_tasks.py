"""The tasks that change what is live, as their DAGs call them."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from include import report
from include.errors import PipelineError, UserError
from include.live.address import LiveAddress
from include.releases.approval import Answer
from include.releases.records import Release, ReleaseId
from include.requests.release import ReleaseRequest
from include.tasks import (
    LiveRelease,
    approve_release,
    check_live_release,
    promote_release,
    prune_artifacts,
    rollback_release,
    stop_candidate,
)
from tests.support.live import MODEL, NAME, Deployment
from tests.support.report import report as example
from tests.support.served import write_repository, write_tokenizer

RUN = "manual__1"


@pytest.fixture
def pair(deployment: Deployment, first: Release) -> list[Release]:
    """Release 1 was live before release 2."""
    return [first, deployment.live().promote(deployment.release("deux"))]


def rollback(deployment: Deployment, **params: Any) -> LiveRelease:
    return rollback_release.run(deployment.context("rollback"), params)


def test_promoting_returns_what_a_client_needs(deployment: Deployment, first: Release) -> None:
    second = deployment.release("deux")
    deployment.candidate(second, RUN)
    context = deployment.context(RUN)
    ref = ReleaseId(model=second.model, number=second.number)
    live = promote_release.run(context, ref, ReleaseRequest().model_dump())
    stop_candidate.run(context)
    assert (live.release, live.new, live.downtime_s) == (2, True, 0)
    assert live.endpoint == f"{deployment.live().url}/v2/models/{NAME}/generate"
    assert deployment.answer() == "deux"
    assert (
        promote_release.event(context, live)["digest"] == context.store.get("repositories", second.repository).content
    )


def test_a_remote_client_gets_urls_that_it_can_use(deployment: Deployment, first: Release) -> None:
    report.write(deployment.releases.path(first), example())
    context = deployment.context(RUN)
    public = context.settings.model_copy(update={"public_url": "https://models.example.org"})
    remote = replace(context, settings=public, web_url="https://airflow.example.org/air")
    told = promote_release.run(remote, ReleaseId(model=first.model, number=first.number), ReleaseRequest().model_dump())
    assert told.endpoint == f"https://models.example.org/v2/models/{NAME}/generate"
    assert told.report_url == f"https://airflow.example.org/air/hf2triton/reports/{first.name}/report.html"


def test_a_run_whose_release_is_live_already_says_so(deployment: Deployment, first: Release) -> None:
    ref = ReleaseId(model=first.model, number=first.number)
    assert not promote_release.run(deployment.context(RUN), ref, ReleaseRequest().model_dump()).new


@pytest.mark.parametrize("model", ["", MODEL, "org/name"], ids=["the live one", "slug", "Hub id"])
def test_rollback_goes_to_the_release_before_and_back(deployment: Deployment, pair: list[Release], model: str) -> None:
    assert rollback(deployment, model=model).release == 1
    assert deployment.answer() == "un"
    assert rollback(deployment, model=model).release == 2
    assert deployment.answer() == "deux"


def test_rollback_goes_to_a_number(deployment: Deployment, pair: list[Release]) -> None:
    deployment.live().promote(deployment.release("trois"))
    with deployment.load() as counts:
        assert rollback(deployment, to="1").release == 1
    assert set(counts) == {"un", "trois"}


def reject(deployment: Deployment) -> None:
    deployment.releases.judge(deployment.release("trois"), "rejected")


def prune(deployment: Deployment) -> None:
    deployment.release("trois")
    deployment.release("quatre")
    prune_artifacts.run(deployment.context(), {"keep_last": 1, "keep_days": 0, "dry_run": False})


@pytest.mark.parametrize(
    ("prepare", "params", "problem"),
    [
        pytest.param(None, {"to": "7"}, "no release 7 of name; it has: 1, 2", id="no such number"),
        pytest.param(None, {"model": "org/name", "to": "7"}, "7 of org--name; it has: 1, 2", id="nor of the model"),
        pytest.param(
            None, {"model": "org/x"}, r"org--x has no release(.|\n)*with releases: org--name; names: name", id="model"
        ),
        pytest.param(None, {"to": "last"}, "to: ", id="neither previous nor a number"),
        pytest.param(reject, {"to": "3"}, "3 was rejected", id="rejected"),
        pytest.param(prune, {"to": "3"}, "3 was pruned: its artifacts are gone", id="pruned"),
    ],
)
def test_a_rollback_that_cannot_be_is_refused(
    deployment: Deployment, pair: list[Release], prepare: Any, params: dict[str, str], problem: str
) -> None:
    if prepare:
        prepare(deployment)
    with pytest.raises(UserError, match=problem):
        rollback(deployment, **params)
    assert deployment.answer() == "deux"


@pytest.fixture
def forced(deployment: Deployment) -> Deployment:
    """The same deployment, which requires approval by ann."""
    return replace(deployment, settings=deployment.settings.model_copy(update={"approvers": ("ann",)}))


def decide(deployment: Deployment, question: str, by: str = "ann", *, approved: bool = True) -> None:
    answer = Answer(approved=approved, by=by, name=by, at=datetime.now(UTC))
    approve_release.answer(deployment.context("rollback"), question, answer)


def test_a_rollback_that_nobody_approved_is_refused_and_the_live_release_stays(
    forced: Deployment, pair: list[Release]
) -> None:
    rollback_release.question(forced.context("rollback"), "q", {})
    with pytest.raises(UserError, match="org--name/1 has not been approved: ann, asked at .*, has not answered"):
        rollback(forced)
    assert forced.answer() == "deux"


def test_a_rollback_goes_to_the_release_that_was_approved_even_if_previous_is_another_by_now(
    forced: Deployment, deployment: Deployment, pair: list[Release]
) -> None:
    asked = rollback_release.question(forced.context("rollback"), "q", {})
    assert asked
    assert "Release 1 of" in asked.subject
    assert "Live now: release org--name/2" in asked.body
    decide(forced, "q")
    third = deployment.release("trois")
    LiveAddress(deployment.context()).promote(third)
    assert rollback(forced).release == 1


def test_an_approval_of_a_rollback_counts_once(forced: Deployment, pair: list[Release]) -> None:
    rollback_release.question(forced.context("rollback"), "q", {})
    decide(forced, "q")
    assert rollback(forced).release == 1
    context = forced.context("rollback-2")
    with pytest.raises(UserError, match="org--name/2 has not been approved"):
        rollback_release.run(context, {})
    assert rollback_release.question(context, "q2", {})


def test_a_release_that_nobody_approved_does_not_go_live_by_any_way(
    forced: Deployment, deployment: Deployment, first: Release
) -> None:
    second = deployment.release("deux")
    deployment.candidate(second, RUN)
    for params in (ReleaseRequest().model_dump(), ReleaseRequest(require_approval=True).model_dump()):
        with pytest.raises(UserError, match="nobody was asked"):
            promote_release.run(forced.context(RUN), second.id, params)
    with pytest.raises(UserError, match="nobody was asked"):
        forced.live(RUN).promote(second)
    assert forced.answer() == "un"


def test_an_approved_release_goes_live_with_a_resumed_run_too(
    forced: Deployment, deployment: Deployment, first: Release
) -> None:
    second = deployment.release("deux")
    approve_release.question(forced.context(RUN), "q", second.id, None, {})
    decide(forced, "q")
    params = ReleaseRequest().model_dump()
    (deployment.settings.artifacts / "repositories" / second.repository / "broken").touch()
    with pytest.raises(PipelineError, match="no such engine"):
        promote_release.run(forced.context(RUN), second.id, params)
    (deployment.settings.artifacts / "repositories" / second.repository / "broken").unlink()
    assert promote_release.run(forced.context(RUN), second.id, params).release == 2
    assert not promote_release.run(forced.context("manual__2"), second.id, params).new


def with_repository(deployment: Deployment, answer: str, tokenizer: Path, *, streaming: bool) -> Release:
    """A release that answers, and whose repository tells its contract."""

    def fill(folder: Path) -> None:
        write_repository(folder, tokenizer, streaming=streaming)
        (folder / "answer.txt").write_text(answer)

    return deployment.release_of(answer, fill, "stand-in")


def test_breaking_changes_are_in_the_result_or_refused_and_a_rollback_is_only_named(
    deployment: Deployment, tmp_path: Path
) -> None:
    tokenizer = write_tokenizer(tmp_path / "tokenizer")
    deployment.live().promote(with_repository(deployment, "un", tokenizer, streaming=True))
    second = with_repository(deployment, "deux", tokenizer, streaming=False)
    report.write(deployment.releases.path(second), example())
    strict = replace(deployment, settings=deployment.settings.model_copy(update={"refuse_breaking_changes": True}))
    with pytest.raises(UserError, match="streaming is off"):
        promote_release.run(strict.context(RUN), second.id, ReleaseRequest().model_dump())
    assert deployment.answer() == "un"
    result = promote_release.run(deployment.context(RUN), second.id, ReleaseRequest().model_dump())
    assert result.contract
    assert [change.field for change in result.contract.breaking] == ["streaming"]
    written = report.read(deployment.releases.path(second))
    assert written
    assert written.contract == result.contract
    back = rollback(strict)
    assert back.contract
    assert (back.release, back.contract.against) == (1, second.name)


def test_without_a_live_release_a_rollback_asks_for_the_model(deployment: Deployment) -> None:
    with pytest.raises(UserError, match="name the model"):
        rollback(deployment)


def test_check_says_that_nothing_is_live(deployment: Deployment) -> None:
    assert check_live_release.run(deployment.context()) == []
    assert deployment.log[-1] == "nothing is live"


def test_check_restarts_what_died(deployment: Deployment, first: Release) -> None:
    deployment.kill_live_server()
    assert [one.release for one in check_live_release.run(deployment.context())] == [1]
    assert deployment.answer() == "un"


def test_check_fails_with_the_servers_own_words_if_a_restart_does_not_help(
    deployment: Deployment, first: Release
) -> None:
    (deployment.settings.artifacts / "repositories" / first.repository / "broken").touch()
    deployment.kill_live_server()
    with pytest.raises(PipelineError, match="no such engine"):
        check_live_release.run(deployment.context())


def test_prune_keeps_what_is_live_and_what_was_before(deployment: Deployment, pair: list[Release]) -> None:
    third = deployment.release("trois")
    told = prune_artifacts.run(deployment.context(), {"keep_last": 0, "keep_days": 0, "dry_run": True})
    done = prune_artifacts.run(deployment.context(), {"keep_last": 0, "keep_days": 0, "dry_run": False})
    assert told.releases == done.releases == (third.name,)
    assert [one.name for one in done.removed] == [third.repository]
    assert rollback(deployment).release == 1


def test_a_pruned_release_keeps_its_report(deployment: Deployment, pair: list[Release]) -> None:
    third = deployment.release("trois")
    path = deployment.releases.path(third) / report.JSON_FILE
    path.write_text("{}")
    prune_artifacts.run(deployment.context(), {"keep_last": 0, "keep_days": 0, "dry_run": False})
    assert path.exists()
    assert [deployment.releases.is_pruned(r) for r in deployment.releases.every()] == [False, False, True]


def test_recreate_with_an_approval_is_refused() -> None:
    with pytest.raises(UserError, match="recreate cannot be had with require_approval"):
        ReleaseRequest.parse({"swap": "recreate", "require_approval": True})
