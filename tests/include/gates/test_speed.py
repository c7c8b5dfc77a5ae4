"""The speed gate against stand-ins for Triton whose tokens take a set time. Against the real one: tests/serving."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from include.gates import Client, Endpoint, GateResult, Load, Trial, validate
from include.gates.load import Burst, Timing, load_of
from include.gates.speed import Speed
from include.host import ports
from tests.support.web import Handler, serving

PROMPTS = ("How do I count to nine in French?", "tell me more")
QUICK = Speed(concurrencies=(1, 3), max_tokens=4, rounds=2)
FAST_S, SLOW_S = 0.0, 0.05


@dataclass
class StandIn:
    """A server that takes ``token_s`` for each token, and sends two at a time; ``fault`` is what it does wrong."""

    name: str
    log: list[str]
    token_s: float = FAST_S
    streams: bool = True
    fault: str = ""
    prompts: list[str] = field(default_factory=list)
    company: threading.Barrier | None = None
    one_at_a_time: threading.Lock = field(default_factory=threading.Lock)

    def events(self, body: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """The responses to a request."""
        self.log.append(self.name)
        self.prompts.append(body["text_input"])
        if self.company:
            self.company.wait(timeout=10)
        assert body["min_tokens"] == body["max_tokens"]
        tokens = 2 if self.fault == "stops early" else body["max_tokens"]
        step = 2 if body["stream"] else tokens
        for _ in range(0, tokens, step):
            with self.one_at_a_time if self.fault == "does not batch" else nullcontext():
                time.sleep(step * self.token_s)
            yield {"text_output": "la\u2028la"} | ({} if self.fault == "no count" else {"num_output_tokens": step})
        if self.fault == "breaks off":
            yield {"error": "the engine failed"}


def _handler(server: StandIn) -> type[Handler]:
    class Generate(Handler):
        def do_GET(self) -> None:
            self.reply({"model_transaction_policy": {"decoupled": server.streams}})

        def do_POST(self) -> None:
            body = json.loads(self.body())
            assert body["stream"] == self.path.endswith("generate_stream")
            if server.fault == "full":
                self.reply({"error": "the engine is full"}, 503)
            elif body["stream"]:
                self.stream(json.dumps(event, ensure_ascii=False) for event in server.events(body))
            else:
                self.reply(next(server.events(body)))

    return Generate


@dataclass
class Pair:
    """A candidate and a live release, and which of them was asked when."""

    candidate: StandIn
    live: StandIn
    candidate_at: Endpoint
    live_at: Endpoint | None

    def judge(self, gate: Speed = QUICK) -> GateResult:
        """The gate's verdict."""
        with Client.open(self.candidate_at) as client:
            (verdict,) = validate(Trial(client, PROMPTS, streaming=True, live=self.live_at), [gate]).verdicts
        return verdict


Start = Callable[..., Pair]


@pytest.fixture
def start() -> Iterator[Start]:
    running = ExitStack()

    def serve(server: StandIn) -> Endpoint:
        web = running.enter_context(serving(_handler(server)))
        return Endpoint(host="127.0.0.1", http_port=web.server_port, grpc_port=1)

    def pair(live: dict[str, Any] | None = None, **candidate: Any) -> Pair:
        log: list[str] = []
        ours, theirs = StandIn("candidate", log, **candidate), StandIn("live", log, **live or {})
        return Pair(ours, theirs, serve(ours), None if live is None else serve(theirs))

    with running:
        yield pair


def _loads(verdict: GateResult) -> dict[tuple[str, int], Load]:
    return {(load.server, load.concurrency): load for load in verdict.loads}


def test_slow_candidate_fails(start: Start) -> None:
    verdict = start(live={"token_s": FAST_S}, token_s=SLOW_S).judge()
    assert verdict.outcome == "fail"
    assert set(verdict.measured) == {"ratio_at_1", "ratio_at_3"}
    assert all(ratio < QUICK.min_ratio for ratio in verdict.measured.values())
    assert "0.8 of the live release's" in verdict.threshold


def test_candidate_that_is_slow_only_in_company_fails(start: Start) -> None:
    verdict = start(live={"token_s": SLOW_S}, token_s=SLOW_S, fault="does not batch").judge()
    assert verdict.outcome == "fail"
    assert verdict.measured["ratio_at_3"] < QUICK.min_ratio
    assert verdict.measured["ratio_at_3"] < verdict.measured["ratio_at_1"]


def test_fast_candidate_passes(start: Start) -> None:
    pair = start(live={"token_s": SLOW_S}, token_s=FAST_S)
    verdict = pair.judge()
    assert verdict.outcome == "pass", verdict.found
    assert all(ratio > 1 for ratio in verdict.measured.values())
    assert set(_loads(verdict)) == {("candidate", 1), ("live", 1), ("candidate", 3), ("live", 3)}


def test_first_release_is_measured_and_passes(start: Start) -> None:
    verdict = start(live=None, token_s=SLOW_S).judge()
    assert verdict.outcome == "pass"
    assert "no live release to compare with" in verdict.found
    assert set(_loads(verdict)) == {("candidate", 1), ("candidate", 3)}
    assert verdict.measured == {}


def test_comparison_that_is_off_leaves_the_live_release_alone(start: Start) -> None:
    pair = start(live={}, token_s=SLOW_S)
    assert pair.judge(replace(QUICK, min_ratio=0)).outcome == "pass"
    assert pair.live.prompts == []


def test_dead_live_release_is_not_the_candidates_fault(start: Start) -> None:
    pair = start(live=None)
    (port,) = ports.free_ports(1)
    pair.live_at = Endpoint(host="127.0.0.1", http_port=port, grpc_port=1)
    verdict = pair.judge()
    assert verdict.outcome == "pass"
    assert "the live release does not answer (ConnectError" in verdict.found


@pytest.mark.parametrize("live_fault", ["full", "breaks off"])
def test_live_release_that_fails_under_load_is_no_measure(start: Start, live_fault: str) -> None:
    verdict = start(live={"fault": live_fault}).judge()
    assert verdict.outcome == "pass"
    assert verdict.measured == {}
    assert _loads(verdict)["live", 1].failures == _loads(verdict)["live", 1].requests > 0


@pytest.mark.parametrize(
    ("fault", "streams", "message"),
    [
        ("full", True, "HTTP 503: the engine is full"),
        ("full", False, "HTTP 503: the engine is full"),
        ("breaks off", True, "the engine failed"),
        ("no count", True, "does not count its tokens"),
    ],
)
def test_candidate_that_fails_under_load_fails(start: Start, fault: str, streams: bool, message: str) -> None:
    verdict = start(live=None, fault=fault, streams=streams).judge()
    assert verdict.outcome == "fail"
    assert message in verdict.found
    load = _loads(verdict)["candidate", 3]
    assert load.failures == load.requests > 0
    assert (load.output_tokens, load.latency_ms) == (0, None)


def test_dead_candidate_fails(start: Start) -> None:
    pair = start(live={})
    (port,) = ports.free_ports(1)
    pair.candidate_at = Endpoint(host="127.0.0.1", http_port=port, grpc_port=1)
    verdict = pair.judge()
    assert (verdict.outcome, verdict.loads) == ("fail", ())
    assert "ConnectError" in verdict.found


def test_streamed_answers_give_time_to_first_token(start: Start) -> None:
    load = _loads(start(live=None, token_s=SLOW_S).judge())["candidate", 1]
    assert None not in (load.ttft_ms, load.itl_ms, load.latency_ms)
    assert load.ttft_ms.p50 < load.latency_ms.p50
    assert load.output_tokens == load.requests * QUICK.max_tokens


@pytest.mark.parametrize(
    ("candidate", "live"), [(False, False), (True, False), (False, True)], ids=["neither", "candidate", "live"]
)
def test_servers_are_asked_in_the_same_way(start: Start, candidate: bool, live: bool) -> None:
    verdict = start(live={"streams": live, "token_s": SLOW_S}, streams=candidate).judge()
    assert verdict.outcome == "pass"
    assert "no time to first token" in verdict.found
    for load in verdict.loads:
        assert (load.ttft_ms, load.itl_ms) == (None, None)
        assert load.latency_ms is not None
        assert load.output_tokens == load.requests * QUICK.max_tokens


def test_tokens_are_those_that_the_endpoint_counts(start: Start) -> None:
    load = _loads(start(live=None, fault="stops early").judge())["candidate", 1]
    assert load.output_tokens == load.requests * 2


def test_no_prompt_is_sent_twice_to_a_server_and_both_get_the_same(start: Start) -> None:
    pair = start(live={"token_s": SLOW_S})
    pair.judge()
    assert len(set(pair.candidate.prompts)) == len(pair.candidate.prompts)
    measured = set(pair.candidate.prompts) & set(pair.live.prompts)
    assert len(measured) == sum(QUICK.rounds * max(QUICK.requests, clients) for clients in QUICK.concurrencies)
    assert {prompt.split(" ", 1)[1] for prompt in measured} == set(PROMPTS)


def test_each_server_goes_first_in_every_other_round(start: Start) -> None:
    pair = start(live={"token_s": SLOW_S})
    pair.judge(replace(QUICK, concurrencies=(1,), requests=1))
    warm_up, rounds = pair.candidate.log[:2], pair.candidate.log[2:]
    assert warm_up == ["candidate", "live"]
    assert rounds == ["candidate", "live", "live", "candidate"]


@pytest.mark.parametrize(("token_s", "looks"), [(FAST_S, 1), (SLOW_S, 2)], ids=["fast", "slow"])
def test_candidate_is_called_slow_after_a_second_look(start: Start, token_s: float, looks: int) -> None:
    gate = replace(QUICK, concurrencies=(2,))
    verdict = start(live={"token_s": SLOW_S - token_s}, token_s=token_s).judge(gate)
    assert _loads(verdict)["candidate", 2].requests == looks * gate.rounds * gate.requests


def test_clients_ask_at_the_same_time(start: Start) -> None:
    """The server answers nobody before all three are there."""
    verdict = start(live=None, company=threading.Barrier(3)).judge(replace(QUICK, concurrencies=(3,)))
    assert verdict.outcome == "pass", verdict.found


def test_figures_of_a_load() -> None:
    timings = (Timing(10, latency_s=1.0, first_s=0.1), Timing(1, latency_s=0.5, first_s=0.5))
    load = load_of("live", 2, [Burst(1.0, timings, ()), Burst(3.0, (Timing(5, latency_s=2.0, first_s=None),), ())])
    assert (load.output_tokens, load.seconds, load.requests_per_s) == (16, 4.0, 0.75)
    assert load.output_tokens_per_s == pytest.approx((11 + 5 / 3) / 2), "the median of the bursts"
    assert None not in (load.ttft_ms, load.itl_ms, load.latency_ms)
    assert load.latency_ms.p50 == 1000
    assert (load.ttft_ms.p50, load.ttft_ms.p90) == (pytest.approx(300), pytest.approx(460))
    assert load.itl_ms.p99 == pytest.approx(100), "a single token has none after it"


def test_the_ratio_is_that_of_the_figures_beside_it(start: Start) -> None:
    verdict = start(live={"token_s": FAST_S}, token_s=SLOW_S).judge()
    loads = _loads(verdict)
    for clients in (1, 3):
        shown = loads["candidate", clients].output_tokens_per_s / loads["live", clients].output_tokens_per_s
        assert verdict.measured[f"ratio_at_{clients}"] == pytest.approx(shown)
