"""Several models are live at one address: whatever happens to one, the others answer on."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from include import report
from include.errors import PipelineError, UserError
from include.files import read_record
from include.live.decide import Suspension
from include.releases.records import Release
from include.requests.operations import RetireRequest
from include.tasks import check_live_release, retire_model, rollback_release, stop_candidate
from tests.support.live import NAME, Deployment
from tests.support.report import report as example

RUN = "manual__1"
OTHER = "org--other"


@pytest.fixture
def other(deployment: Deployment, first: Release) -> Release:
    """A second model, with an alias."""
    return deployment.live().promote(deployment.release("autre", model=OTHER, aliases=["chat"]))


def flaw(deployment: Deployment, release: Release, name: str) -> None:
    (deployment.settings.artifacts / "repositories" / release.repository / name).touch()


def test_each_answers_under_its_names_and_the_first_one_without(deployment: Deployment, other: Release) -> None:
    said = {name: deployment.answer(name) for name in ("ensemble", NAME, "other", "chat", "none")}
    assert said == {"ensemble": "un", NAME: "un", "other": "autre", "chat": "autre", "none": "HTTP 404"}
    assert deployment.states() == ["live", "live"]
    assert deployment.serving() == ["release-org--name-1", "release-org--other-1"]


def test_the_setting_names_another_default(deployment: Deployment, other: Release) -> None:
    chosen = Deployment(deployment.settings.model_copy(update={"default_model": "other"}))
    chosen.live().reconcile()
    assert deployment.answer() == "autre"
    deployment.live().reconcile()
    assert deployment.answer() == "un"


def test_promotion_rollback_and_retirement_lose_no_request_of_another_model(
    deployment: Deployment, first: Release, other: Release
) -> None:
    second = deployment.release("deux")
    candidate = deployment.candidate(second, RUN)
    with deployment.load("other") as counts, deployment.load(NAME, takes_s=1) as its_own:
        deployment.live(RUN).promote(second, candidate=candidate)
        deployment.live(RUN).finish_run(NAME)
        rollback_release.run(deployment.context(), {"name": NAME})
    with deployment.load("other") as later:
        retire_model.run(deployment.context(), {"name": NAME})
    assert (set(counts), set(its_own), set(later)) == ({"autre"}, {"un", "deux"}, {"autre"})
    assert deployment.serving() == ["release-org--other-1"]


def test_a_swap_by_recreate_stops_its_own_server_alone(deployment: Deployment, first: Release, other: Release) -> None:
    deployment.context(RUN).pins.add(RUN, "repositories", "x")
    deployment.live(RUN).suspend(NAME)
    assert (deployment.answer(NAME), deployment.answer("other")) == ("HTTP 503", "autre")
    assert [one.name for one in check_live_release.run(deployment.context())] == [NAME, "other"]
    assert deployment.serving() == ["release-org--other-1"]
    with deployment.load("other") as counts:
        stop_candidate.run(deployment.context(RUN), {"model": "org/name"})
    assert set(counts) == {"autre"}
    assert deployment.answer(NAME) == "un"


@pytest.fixture
def broken(deployment: Deployment, first: Release, other: Release) -> Release:
    """The first model's release, which cannot be started any more."""
    flaw(deployment, first, "broken")
    deployment.kill_live_server(NAME)
    return first


def check(deployment: Deployment) -> None:
    with pytest.raises(PipelineError, match="no such engine"):
        check_live_release.run(deployment.context())


def promote(deployment: Deployment) -> None:
    deployment.live().promote(deployment.release("deux", model=OTHER, aliases=["chat"]))
    rollback_release.run(deployment.context(), {"name": "other"})


def restore(deployment: Deployment) -> None:
    deployment.kill_live_server("other")
    with pytest.raises(PipelineError, match="no such engine"):
        deployment.live().restore(NAME, 0)
    assert deployment.live().restore("other", 0)


def finish(deployment: Deployment) -> None:
    stop_candidate.run(deployment.context(RUN), {"model": "org/other"})


@pytest.mark.parametrize("action", [check, promote, restore, finish])
def test_a_broken_model_stands_in_nobodys_way(
    deployment: Deployment, broken: Release, action: Callable[[Deployment], None]
) -> None:
    action(deployment)
    assert (deployment.answer("other"), deployment.answer(NAME)) == ("autre", "HTTP 503")


def test_a_check_names_each_model_that_does_not_answer(deployment: Deployment, broken: Release, other: Release) -> None:
    flaw(deployment, other, "mute")
    with pytest.raises(PipelineError, match=r"name: .*\n(.|\n)*other: ") as failure:
        check_live_release.run(deployment.context())
    assert "no such engine" in str(failure.value)


def test_a_retired_model_is_gone_and_comes_back_by_its_name(
    deployment: Deployment, first: Release, other: Release
) -> None:
    report.write(deployment.releases.path(first), example())
    context = deployment.context()
    object.__setattr__(context, "find_requester", lambda: "ann")
    for name in (NAME, "other"):
        deployment.live().record_answer(name)
    retired = retire_model.run(context, {"name": NAME})
    assert [path.name for path in (deployment.settings.artifacts / "servers" / "answers").iterdir()] == ["other"]
    assert (retired.release, retired.default) == (1, "other")
    assert "the default model is other now" in deployment.log
    assert (deployment.answer(NAME), deployment.answer()) == ("HTTP 404", "autre")
    assert deployment.states() == ["retired", "live"]
    assert deployment.serving() == ["release-org--other-1"]
    (on_record,) = deployment.releases.get(first.model, 1).retirements
    assert (on_record.by, on_record.run) == ("ann", "other")
    assert report.read(deployment.releases.path(first)).retirements == (on_record,)
    assert rollback_release.run(deployment.context(), {"name": NAME}).release == 1
    assert deployment.answer() == "un", "it was promoted first"


def test_the_last_model_can_be_retired_and_what_is_not_live_cannot(deployment: Deployment, first: Release) -> None:
    with pytest.raises(UserError, match="nothing is live as other") as refused:
        retire_model.run(deployment.context(), {"name": "other"})
    assert "live models: name" in refused.value.fix
    assert retire_model.run(deployment.context(), {"name": NAME}).default is None
    assert (deployment.answer(), deployment.serving()) == ("HTTP 503", [])
    assert check_live_release.run(deployment.context()) == []
    for params in ({}, {"name": "ensemble"}, {"name": "A"}):
        with pytest.raises(UserError, match="is not a served name"):
            RetireRequest.parse(params)


def test_a_given_name_replaces_another_model_and_a_rollback_brings_that_back(
    deployment: Deployment, first: Release
) -> None:
    taker = deployment.release("deux", model=OTHER, served_name=NAME)
    assert deployment.releases.replaced_model(taker) is None, "this record does not say what it was made from"
    deployment.live().promote(taker)
    assert (deployment.answer(NAME), deployment.states()) == ("deux", ["retired", "live"])
    assert rollback_release.run(deployment.context(), {}).model == first.model
    assert (deployment.answer(NAME), deployment.serving()) == ("un", ["release-org--name-1"])


@pytest.mark.parametrize(
    ("model", "request_", "problem"),
    [
        ("elsewhere--name", {}, "name, the served name of elsewhere--name by default, is that of release org--name/1"),
        ("org--third", {"served_name": "chat"}, "chat is a name of the live model other"),
        ("org--third", {"aliases": ["name"]}, "name is a name of the live model name"),
    ],
)
def test_a_name_that_another_model_has_is_refused(
    deployment: Deployment, other: Release, model: str, request_: dict[str, object], problem: str
) -> None:
    release = deployment.release("deux", model=model, **request_)
    with pytest.raises(UserError, match=problem):
        deployment.live().promote(release)
    assert (deployment.answer(NAME), deployment.answer("other")) == ("un", "autre")


def test_a_suspension_of_an_earlier_version_is_that_of_its_model(deployment: Deployment, first: Release) -> None:
    """It was stopped by `make down`; another model is released after the upgrade."""
    note = {"run": "", "since": "2026-11-28T12:00:00Z", "live_since": None}
    former = deployment.settings.artifacts / "servers" / "away.json"
    former.write_text(json.dumps(note))
    assert deployment.live().suspended(NAME) == Suspension.model_validate(note)
    deployment.live().promote(deployment.release("autre", model=OTHER))
    assert not former.exists()
    assert read_record(former.parent / "away" / f"{NAME}.json", Suspension).run == ""
    assert deployment.live().suspended("other") is None
    assert deployment.live().check(NAME) == first
    assert deployment.live().suspended(NAME) is None


def test_the_live_release_of_an_earlier_version_serves_on_and_gets_company(
    deployment: Deployment, first: Release
) -> None:
    """The store is as that version left it: a link, and no directory of links."""
    links, server = deployment.settings.artifacts / "live", deployment.live_server()
    (links / NAME).unlink()
    links.rmdir()
    (deployment.releases.root / "live").symlink_to(first.name)
    assert [one.release for one in check_live_release.run(deployment.context())] == [1]
    with deployment.load() as counts:
        deployment.live().promote(deployment.release("autre", model=OTHER))
    assert set(counts) == {"un"}
    assert (deployment.answer(NAME), deployment.answer("other")) == ("un", "autre")
    assert deployment.live_server() == server
    assert (links / NAME).is_symlink()
