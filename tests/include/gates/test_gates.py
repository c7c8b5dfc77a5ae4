"""The gates against a stand-in for Triton. Against the real one: tests/serving; with a real model: tests/e2e."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any
from unittest.mock import create_autospec

import pytest

from include.gates import (
    Client,
    Continuation,
    Endpoint,
    Gate,
    GateResult,
    HeldOut,
    Quality,
    Reference,
    Report,
    Trial,
    gates_for,
    validate,
)
from include.gates.probes import Deterministic
from include.host.ports import free_ports
from include.requests.release import SEED_PROMPT, ReleaseRequest
from tests.support.triton_stand_in import (
    OTHER_CONFIGS,
    SILENT,
    STORY,
    WORDS,
    StandIn,
    served,
    write_repository,
    write_tokenizer,
)

GATES = tuple(gate for gate in gates_for(ReleaseRequest()) if gate.name not in {"speed", "tasks"})  # tested alone
PROMPTS = (SEED_PROMPT, "tell me more")
FAULTS = {
    "not ready: /live": "ready",
    "not ready: /v2/health/ready": "ready",
    "not ready: /ensemble/ready": "ready",
    **dict.fromkeys(OTHER_CONFIGS, "templates"),
    "model missing": "templates",
    "one model more": "templates",
    "empty": "test_prompts",
    "silent seed": "seed_request",
    "other over gRPC": "same_over_grpc",
    "too long": "max_tokens",
    "stop word ignored": "stop_word",
    "stops too late": "stop_word",
    "bad word ignored": "bad_word",
    "random": "deterministic",
    "random in company": "deterministic",
    "other text": "agreement",
    "ends early": "end_token",
    "goes on": "end_token",
    "shows the end token": "end_token",
    "goes round in circles": "repetition",
    "stream loses a piece": "streaming",
    "stream in one piece": "streaming",
    "stream ends in an error": "streaming",
}
# What these get wrong shows in the text of every answer.
BROAD = {"empty", "too long", "random", "random in company", "ends early", "goes round in circles"}


def _known(prompt: str, text: str, *, ended: bool, chat: bool = False) -> Continuation:
    ids = tuple(range(len(text.split())))
    return Continuation(prompt=prompt, chat=chat, prompt_ids=(1,), after_ids=ids, after_text=text, after_ended=ended)


QUALITY = Quality(before=10.0, after=11.0, samples=8, tokens=4088, text_sha256="abc")
REFERENCE = Reference(
    continuations=(
        _known(SEED_PROMPT, STORY, ended=True),
        _known("tell me more", " ".join(WORDS[:8]), ended=False),
        _known(SILENT, "", ended=True),
        _known(SEED_PROMPT, "quite another story", ended=True, chat=True),
    ),
    quality=QUALITY,
    held_out=HeldOut(text_sha256="abc", samples=8, tokens=4088),
)


@pytest.fixture(scope="module")
def model() -> StandIn:
    return StandIn()


@pytest.fixture(scope="module")
def endpoint(model: StandIn) -> Iterator[Endpoint]:
    with served(model) as endpoint:
        yield endpoint


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What a trial of the stand-in knows."""
    root = tmp_path_factory.mktemp("candidate")
    return {
        "prompts": PROMPTS,
        "streaming": True,
        "reference": REFERENCE,
        "repository": write_repository(root / "repository"),
        "tokenizer": write_tokenizer(root / "tokenizer"),
    }


class Judge:
    """Tries the gates on the stand-in with one fault."""

    def __init__(self, model: StandIn, endpoint: Endpoint, known: dict[str, Any]) -> None:
        self._model, self._endpoint, self._known = model, endpoint, known

    def __call__(self, fault: str = "", gates: tuple[Gate, ...] = GATES, **changes: Any) -> Report:
        self._model.fault = fault
        self._model.asked.clear()
        with Client.open(self._endpoint) as client:
            return validate(Trial(client, **self._known | changes), gates)


@pytest.fixture
def judge(model: StandIn, endpoint: Endpoint, known: dict[str, Any]) -> Judge:
    return Judge(model, endpoint, known)


def _outcomes(report: Report) -> dict[str, str]:
    return {verdict.gate: verdict.outcome for verdict in report.verdicts}


def _verdict(report: Report, gate: str) -> GateResult:
    return next(verdict for verdict in report.verdicts if verdict.gate == gate)


def test_model_that_does_everything_right_passes_every_gate(judge: Judge) -> None:
    report = judge()
    assert set(_outcomes(report).values()) == {"pass"}, report.to_markdown()
    assert report.passed
    assert report.failures() == ""


@pytest.mark.parametrize(("fault", "gate"), FAULTS.items(), ids=FAULTS)
def test_planted_fault_fails_its_gate(judge: Judge, fault: str, gate: str) -> None:
    report = judge(fault)
    failed = [name for name, outcome in _outcomes(report).items() if outcome == "fail"]
    assert gate in failed if fault in BROAD else failed == [gate], report.to_markdown()
    assert not report.passed
    assert f"gate {gate} failed" in report.failures()


def test_every_gate_has_a_fault_that_it_catches() -> None:
    assert {gate.name for gate in GATES} - {"quality"} == set(FAULTS.values())


def test_answers_of_candidate_and_checkpoint_stand_side_by_side(judge: Judge) -> None:
    report = judge("other text")
    first = report.answers[0]
    assert (first.prompt, first.expected, first.expected_from) == (SEED_PROMPT, STORY, "checkpoint")
    assert first.answer == f"Something else from {STORY}"
    assert [sample.ok for sample in _verdict(report, "agreement").samples] == [False, False]
    assert _verdict(report, "agreement").measured == {"equal_share": 0}


@pytest.mark.parametrize("limit", [0.5, 0.75], ids=["reached", "missed"])
def test_agreement_counts_tokens_up_to_the_first_difference(judge: Judge, limit: float) -> None:
    other = _known("tell me more", " ".join([*WORDS[:5], "else", *WORDS[6:8]]), ended=False)
    request = ReleaseRequest(min_agreement=limit)
    gates = tuple(gate for gate in gates_for(request) if gate.name == "agreement")
    verdict = _verdict(judge(gates=gates, reference=Reference(continuations=(other,))), "agreement")
    assert verdict.measured["equal_share"] == 5 / 8
    assert verdict.outcome == ("pass" if limit < 5 / 8 else "fail")


def test_only_what_fits_the_endpoint_is_compared(judge: Judge, model: StandIn) -> None:
    long = REFERENCE.continuations[0].model_copy(update={"prompt": "long", "prompt_ids": tuple(range(99))})
    reference = Reference(continuations=(long, *REFERENCE.continuations))
    report = judge(reference=reference, max_input_len=98, max_seq_len=200)
    assert [sample.prompt for sample in report.answers] == [*PROMPTS, SILENT]
    # The story's 19 tokens, 16 more to see whether it goes on, and the prompt's one.
    report = judge(reference=reference, max_input_len=99, max_seq_len=35)
    assert [sample.prompt for sample in report.answers] == ["tell me more", SILENT]
    assert "long" not in model.asked


def test_only_the_form_that_the_endpoint_uses_is_compared(judge: Judge) -> None:
    assert _outcomes(judge(chat=True))["agreement"] == "fail"
    skipped = {gate for gate, outcome in _outcomes(judge(reference=None)).items() if outcome == "skip"}
    assert skipped == {"agreement", "end_token", "repetition", "quality"}


def test_answers_that_differ_say_nothing_about_their_end(judge: Judge) -> None:
    spoken = Reference(continuations=REFERENCE.continuations[:2])
    assert _verdict(judge("other text", reference=spoken), "end_token").outcome == "skip"


def test_repetition_of_the_checkpoint_itself_is_no_fault(judge: Judge) -> None:
    circles = Reference(continuations=(_known(SEED_PROMPT, "la " * 20, ended=False),))
    assert _outcomes(judge("goes round in circles", reference=circles))["repetition"] == "pass"


def test_empty_answer_is_right_where_the_checkpoint_says_nothing_itself(judge: Judge) -> None:
    report = judge(prompts=(SILENT,))
    assert report.passed
    assert "the checkpoint itself ends at once here" in [s.note for s in _verdict(report, "test_prompts").samples]
    assert not judge(prompts=(SILENT,), reference=None).passed


def test_near_tie_in_company_is_no_fault(judge: Judge) -> None:
    verdict = _verdict(judge("a near tie in company", (Deterministic(),)), "deterministic")
    assert verdict.outcome == "pass"
    assert 0.5 < verdict.measured["equal_share_in_company"] < 1


def test_a_first_answer_that_parts_at_a_near_tie_is_no_fault(judge: Judge, model: StandIn) -> None:
    """The next ones read the prompt from the cache, with other kernels."""
    model.numbers = itertools.count()
    verdict = _verdict(judge("reads its cache", (Deterministic(),)), "deterministic")
    assert verdict.outcome == "pass"
    assert verdict.found.startswith("2 of 3 the same alone")


@pytest.mark.parametrize(
    ("answer", "word"),
    [
        pytest.param("a résumé of nine", "nine", id="part of a word"),
        pytest.param('he said "The end', "said", id="after a mark"),
        pytest.param('one ("two three', "three", id="behind a mark"),
        pytest.param("one two2 three_four five", "five", id="with a digit"),
        pytest.param("one café caf\u00e9s", None, id="none"),
    ],
)
def test_whole_words_are_probed(answer: str, word: str | None, known: dict[str, Any]) -> None:
    """Others are not the tokens that a stop word or a banned word has."""
    client = create_autospec(Client, instance=True)
    client.text.return_value = answer
    found = Trial(client, **known | {"reference": None}).wordy
    assert (found[2][0] if found else None) == word


def test_endpoint_that_refuses_bad_words_is_not_asked_to_honour_them(judge: Judge) -> None:
    assert _outcomes(judge("refuses bad words"))["bad_word"] == "skip"


def test_release_that_does_not_stream_is_not_asked_to(judge: Judge) -> None:
    assert _outcomes(judge("stream loses a piece", streaming=False))["streaming"] == "skip"


def test_no_server_fails_every_gate_that_asks_it(known: dict[str, Any]) -> None:
    http, rpc = free_ports(2)
    with Client.open(Endpoint(host="127.0.0.1", http_port=http, grpc_port=rpc)) as client:
        report = validate(Trial(client, **known), gates_for(ReleaseRequest()))
    assert {gate for gate, outcome in _outcomes(report).items() if outcome != "fail"} == {"quality", "tasks"}
    assert "ConnectError" in report.failures()
    assert report.answers == ()
