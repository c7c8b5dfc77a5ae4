"""The speed gate against real Triton servers on one engine, of which one has been slowed down."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from include.gates import Client, GateResult, Trial, gates_for, validate
from include.gates import Endpoint as Address
from include.gates.speed import Speed
from include.requests.release import ReleaseRequest
from include.targets import pytriton
from include.triton import repository, servers
from tests.support.echo import free

from .conftest import PYTHON, TEMPLATES, Endpoint, values

# Under load, and compared with one another: nothing else may run beside them.
pytestmark = pytest.mark.slow

GATE = Speed(rounds=2, max_tokens=16)
STEP = "self._pipeline.step()"
DELAY_S = 0.05  # a step of the tiny model takes a hundredth of it


@pytest.fixture(scope="module")
def slow(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Endpoint]:
    """The engine of ``streaming``, which rests before each step."""
    root = tmp_path_factory.mktemp("slow")
    repository.assemble(TEMPLATES, values(tiny, True, False), root / "repository")
    engine = root / "repository" / "tensorrt_llm" / "1" / "engine.py"
    code = engine.read_text()
    assert code.count(STEP) == 1
    engine.write_text(code.replace(STEP, f"__import__('time').sleep({DELAY_S}); {STEP}"))
    record = servers.launch(
        pytriton.server("openvino", pytriton.ask(PYTHON), root / "repository", free()),
        root / "server.json",
        timeout_s=120,
    )
    yield Endpoint(record)
    servers.stop(record, root / "server.json", grace_s=20)


def _address(endpoint: Endpoint) -> Address:
    ports = endpoint.record.ports
    return Address(host="127.0.0.1", http_port=ports.http, grpc_port=ports.grpc)


def _judge(candidate: Endpoint, live: Endpoint | None) -> GateResult:
    with Client.open(_address(candidate)) as client:
        trial = Trial(client, ("Hello there.",), streaming=True, live=_address(live) if live else None)
        return GATE.judge(trial)


def test_slow_engine_is_caught(slow: Endpoint, streaming: Endpoint) -> None:
    verdict = _judge(slow, streaming)
    assert verdict.outcome == "fail"
    assert {name: ratio < GATE.min_ratio for name, ratio in verdict.measured.items()} == {
        "ratio_at_1": True,
        "ratio_at_4": True,
    }


def test_slow_engine_fails_no_other_gate(slow: Endpoint, streaming: Endpoint) -> None:
    gates = gates_for(ReleaseRequest(streaming=True))

    def failed(candidate: Endpoint) -> set[str]:
        with Client.open(_address(candidate)) as client:
            trial = Trial(client, ("Hello there.",), streaming=True, live=_address(streaming))
            others = [gate for gate in gates if gate.name != "speed"]
            return {verdict.gate for verdict in validate(trial, [*others, GATE]).verdicts if verdict.outcome == "fail"}

    assert failed(slow) == failed(streaming) | {"speed"}


def test_faster_engine_passes(slow: Endpoint, streaming: Endpoint) -> None:
    verdict = _judge(streaming, slow)
    assert verdict.outcome == "pass", verdict.found
    for load in verdict.loads:
        assert (load.failures, load.output_tokens) == (0, load.requests * GATE.max_tokens)
        assert None not in (load.ttft_ms, load.itl_ms, load.latency_ms)


def test_release_that_does_not_stream_is_measured_whole(plain: Endpoint) -> None:
    verdict = _judge(plain, None)
    assert verdict.outcome == "pass", verdict.found
    assert "no time to first token" in verdict.found
    for load in verdict.loads:
        assert (load.failures, load.output_tokens, load.ttft_ms) == (0, load.requests * GATE.max_tokens, None)
