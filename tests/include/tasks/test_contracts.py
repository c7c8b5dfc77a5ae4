"""A candidate's contract beside the live release's, in the tasks: named, recorded, refused if a setting says so."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from include import report
from include.context import Context
from include.errors import UserError
from include.releases.contract import Comparison
from include.releases.records import Release
from include.tasks import approve_release, check_request, contracts, promote_release
from tests.support.live import NAME, Deployment
from tests.support.report import report as example
from tests.support.served import write_repository, write_tokenizer

STREAMING_OFF = "streaming is off, the live release has it on"
SMALL = {"awq_group_size": 64, "calib_seq_len": 64, "max_input_len": 128, "max_seq_len": 256}


@pytest.fixture
def told(context: Context) -> list[str]:
    return []


@pytest.fixture
def known(context: Context, told: list[str]) -> Context:
    return replace(context, log=told.append)


@pytest.fixture
def strict(known: Context) -> Context:
    """A deployment that refuses breaking changes."""
    return replace(known, settings=known.settings.model_copy(update={"refuse_breaking_changes": True}))


@pytest.fixture
def live(context: Context, tmp_path: Path) -> Release:
    """The live release, which streams."""
    tokenizer = write_tokenizer(tmp_path / "tokenizer")
    return go_live(context, release(context, "live", tokenizer, streaming=True))


@pytest.fixture
def candidate(context: Context, live: Release, tmp_path: Path) -> Release:
    """A release that does not stream."""
    made = release(context, "candidate", tmp_path / "tokenizer", streaming=False)
    report.write(context.releases.path(made), example())
    return made


def release(context: Context, key: str, tokenizer: Path, *, streaming: bool) -> Release:
    def fill(folder: Path) -> None:
        write_repository(folder, tokenizer, streaming=streaming)

    return Deployment(context.settings).release_of(key, fill, "openvino")


def go_live(context: Context, chosen: Release) -> Release:
    context.releases.make_live(chosen)
    promoted = context.releases.record_promotion(chosen.served_name)
    assert promoted
    return promoted


def test_the_changes_are_recorded_in_the_release(known: Context, live: Release, candidate: Release) -> None:
    found = contracts.record(known, candidate)
    assert found == known.releases.get(candidate.model, candidate.number)
    assert found.contract
    assert found.contract.against == live.name
    assert [change.field for change in found.contract.breaking] == ["streaming"]


def test_the_live_release_is_not_compared_with_itself(known: Context, live: Release) -> None:
    assert contracts.record(known, live).contract is None


def test_without_a_live_release_there_is_nothing_to_break(strict: Context, tmp_path: Path) -> None:
    made = release(strict, "first", write_tokenizer(tmp_path / "tokenizer"), streaming=True)
    contracts.check(strict, contracts.record(strict, made))
    assert strict.releases.get(made.model, made.number).contract is None


def test_a_live_release_whose_files_are_gone_breaks_nothing(
    strict: Context, live: Release, candidate: Release, told: list[str]
) -> None:
    for config in (strict.store.root / "repositories" / live.repository).glob("*/config.pbtxt"):
        config.unlink()
    contracts.check(strict, contracts.record(strict, candidate))
    assert any(f"the contract of release {live.name} is not known" in line for line in told)


def test_a_change_is_named_in_the_log_and_in_the_question(
    known: Context, candidate: Release, live: Release, told: list[str]
) -> None:
    asked = approve_release.question(known, "q", candidate.id, None, {"require_approval": True})
    assert asked
    assert f"Changes for clients of the live release {live.name}" in asked.body
    assert f"- breaking: {STREAMING_OFF}" in asked.body
    assert any(STREAMING_OFF in line for line in told)


@pytest.mark.parametrize("asked", [{}, {"require_approval": True}], ids=["nobody decides", "a person decides"])
def test_the_setting_refuses_a_breaking_change_before_anybody_is_asked(
    strict: Context, candidate: Release, live: Release, asked: dict[str, bool]
) -> None:
    with pytest.raises(UserError, match=f"{STREAMING_OFF}(.|\n)*HF2TRITON_REFUSE_BREAKING_CHANGES"):
        approve_release.question(strict, "q", candidate.id, None, asked)
    assert strict.releases.live_id(NAME) == live.id
    assert not strict.releases.get(candidate.model, candidate.number).approvals


def test_the_setting_refuses_it_at_the_promotion_whatever_was_decided(
    strict: Context, candidate: Release, live: Release
) -> None:
    with pytest.raises(UserError, match=f"would break clients of the live release {live.name}: {STREAMING_OFF}"):
        promote_release.run(strict, candidate.id, {})
    assert strict.releases.live_id(NAME) == live.id


def test_the_setting_lets_what_breaks_nobody_pass(strict: Context, live: Release, tmp_path: Path) -> None:
    same = release(strict, "same", tmp_path / "tokenizer", streaming=True)
    contracts.check(strict, contracts.record(strict, same))
    assert strict.releases.get(same.model, same.number).contract == Comparison(against=live.name)


def test_a_request_is_refused_at_once_for_what_it_says_itself(strict: Context, live: Release, model: Path) -> None:
    with pytest.raises(UserError, match=f"this request would break clients(.|\n)*{STREAMING_OFF}"):
        check_request.run(strict, {"model": str(model), "served_name": NAME, **SMALL, "streaming": False})
    assert check_request.run(strict, {"model": str(model), "served_name": NAME, **SMALL}).request.streaming


def test_without_the_setting_the_request_is_told_and_goes_on(
    known: Context, live: Release, model: Path, told: list[str]
) -> None:
    assert check_request.run(known, {"model": str(model), "served_name": NAME, **SMALL, "streaming": False})
    assert any(f"live release {live.name}: breaking: {STREAMING_OFF}" in line for line in told)
