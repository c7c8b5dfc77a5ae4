"""The gates against a stand-in for Triton that can be made to misbehave. Against the real one: tests/serving."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from typing import Any

import grpc
import pytest
from tritonclient.grpc import service_pb2, service_pb2_grpc  # noqa: TID253

from include import gates, servers
from include.gates import SEED_PROMPT, Continuation, Endpoint, Reference, Report, Verdict

STORY = "Count with me, and take your time: one, two, three, four, five, six, seven, eight and nine are all"
WORDS = STORY.split()
SILENT = "say nothing"
PROMPTS = (SEED_PROMPT, "tell me more")
FAULTS = {
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
    "stream loses a piece": "streaming",
    "stream in one piece": "streaming",
    "stream ends in an error": "streaming",
}


@dataclass
class StandIn:
    """A model that tells the same story to everyone, a word a token; ``fault`` is what it does wrong."""

    fault: str = ""
    numbers: Iterator[int] = field(default_factory=count)
    company: threading.Barrier = field(default_factory=lambda: threading.Barrier(2))

    def answer(self, body: dict[str, Any]) -> str:
        options = {**body, **body.get("parameters", {})}
        words = [] if options["text_input"] == SILENT or self._is_silent(options) else list(WORDS)
        if self.fault == "other text":
            words = ["Something", "else", "from", *words]
        if self.fault == "random" or (self.fault == "random in company" and self._in_company()):
            words = [*words[:4], str(next(self.numbers)), *words[4:]]
        banned = {word.strip() for word in options.get("bad_words", [""])} - {""}
        if self.fault != "bad word ignored":
            words = [word for word in words if word.strip(",:") not in banned]
        return self._stopped(" ".join(words[: self.limit(options)]), options)

    def limit(self, options: dict[str, Any]) -> int:
        return int(options["max_tokens"]) + 3 * (self.fault == "too long")

    def _in_company(self) -> bool:
        try:
            self.company.wait(timeout=0.05)
        except threading.BrokenBarrierError:
            self.company.reset()
            return False
        return True

    def _is_silent(self, options: dict[str, Any]) -> bool:
        seed_request = "parameters" in options
        return self.fault == "empty" or (self.fault == "silent seed" and seed_request)

    def _stopped(self, text: str, options: dict[str, Any]) -> str:
        words = [word for word in options.get("stop_words", []) if word]
        ends = [text.index(word) + len(word) for word in words if word in text]
        if not ends or self.fault == "stop word ignored":
            return text
        return text[: min(ends) + 10 * (self.fault == "stops too late")]

    def pieces(self, body: dict[str, Any]) -> list[str]:
        text = self.answer(body)
        pieces = [text] if self.fault == "stream in one piece" else text.split(" ")
        pieces = [piece if number == 0 else f" {piece}" for number, piece in enumerate(pieces)]
        return pieces[:-1] if self.fault == "stream loses a piece" else pieces


def _handler(model: StandIn) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            if self.path.endswith("generate_stream"):
                events = [{"text_output": piece} for piece in model.pieces(body)]
                if model.fault == "stream ends in an error":
                    events.append({"error": "engine failed"})
                self._send("".join(f"data: {json.dumps(event)}\n\n" for event in events))
            else:
                text = model.answer(body)
                self._send(json.dumps({"text_output": text, "num_output_tokens": len(text.split())}))

        def _send(self, text: str) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, format: str, *args: Any) -> None:
            pass

    return Handler


class _Grpc(service_pb2_grpc.GRPCInferenceServiceServicer):
    def __init__(self, model: StandIn) -> None:
        self._model = model

    def ModelStreamInfer(self, requests: Iterable[Any], context: Any) -> Iterator[Any]:  # noqa: N802
        for request in requests:
            prompt = request.raw_input_contents[0][4:].decode()
            tokens = int.from_bytes(request.raw_input_contents[1], "little")
            text = self._model.answer({"text_input": prompt, "max_tokens": tokens})
            text += "!" * (self._model.fault == "other over gRPC")
            yield _grpc_response(text.encode())


def _grpc_response(text: bytes) -> Any:
    response = service_pb2.ModelStreamInferResponse()
    output = response.infer_response.outputs.add(name="text_output", datatype="BYTES", shape=[1, 1])
    assert output.name == "text_output"
    response.infer_response.raw_output_contents.append(len(text).to_bytes(4, "little") + text)
    return response


@pytest.fixture(scope="module")
def model() -> StandIn:
    return StandIn()


@pytest.fixture(scope="module")
def endpoint(model: StandIn) -> Iterator[Endpoint]:
    web = ThreadingHTTPServer(("127.0.0.1", 0), _handler(model))
    threading.Thread(target=web.serve_forever, daemon=True).start()
    rpc = grpc.server(ThreadPoolExecutor(4))
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(_Grpc(model), rpc)
    port = rpc.add_insecure_port("127.0.0.1:0")
    rpc.start()
    yield Endpoint(host="127.0.0.1", http_port=web.server_port, grpc_port=port)
    rpc.stop(None)
    web.shutdown()
    web.server_close()


def _known(prompt: str, text: str, *, chat: bool = False) -> Continuation:
    return Continuation(prompt=prompt, chat=chat, after_ids=tuple(range(len(text.split()))), after_text=text)


REFERENCE = Reference(
    continuations=(
        _known(SEED_PROMPT, STORY),
        _known("tell me more", " ".join(WORDS[:8])),
        _known(SILENT, ""),
        _known(SEED_PROMPT, "quite another story", chat=True),
    )
)


def _validate(model: StandIn, endpoint: Endpoint, fault: str = "", **options: Any) -> Report:
    model.fault = fault
    given = {"prompts": PROMPTS, "streaming": True, "reference": REFERENCE} | options
    return gates.validate(endpoint, given.pop("reference"), **given)


def _outcomes(report: Report) -> dict[str, str]:
    return {verdict.gate: verdict.outcome for verdict in report.verdicts}


def test_model_that_does_everything_right_passes_every_gate(model: StandIn, endpoint: Endpoint) -> None:
    report = _validate(model, endpoint)
    assert set(_outcomes(report).values()) == {"pass"}, report.to_markdown()
    assert report.passed
    assert report.failures() == ""


@pytest.mark.parametrize(("fault", "gate"), FAULTS.items(), ids=FAULTS)
def test_planted_fault_fails_its_gate(model: StandIn, endpoint: Endpoint, fault: str, gate: str) -> None:
    report = _validate(model, endpoint, fault)
    assert _outcomes(report)[gate] == "fail"
    assert not report.passed
    assert f"gate {gate} failed" in report.failures()


@pytest.mark.parametrize("fault", sorted(set(FAULTS) - {"empty", "random", "random in company", "too long"}))
def test_planted_fault_fails_no_other_gate(model: StandIn, endpoint: Endpoint, fault: str) -> None:
    failed = [gate for gate, outcome in _outcomes(_validate(model, endpoint, fault)).items() if outcome == "fail"]
    assert failed == [FAULTS[fault]]


def test_empty_answer_is_right_where_the_checkpoint_says_nothing_itself(model: StandIn, endpoint: Endpoint) -> None:
    report = _validate(model, endpoint, prompts=[SILENT])
    assert report.passed
    (verdict,) = [v for v in report.verdicts if v.gate == "test_prompts"]
    assert "the checkpoint itself ends at once here" in verdict.evidence[0]
    assert not _validate(model, endpoint, prompts=[SILENT], reference=None).passed


def test_agreement_looks_only_at_the_form_that_the_endpoint_uses(model: StandIn, endpoint: Endpoint) -> None:
    assert _outcomes(_validate(model, endpoint, chat=True))["agreement"] == "fail"
    assert _outcomes(_validate(model, endpoint, chat=False))["agreement"] == "pass"
    assert _outcomes(_validate(model, endpoint, reference=None))["agreement"] == "skip"


def test_reference_knows_whether_the_model_has_a_chat_template() -> None:
    assert REFERENCE.has_chat
    assert not Reference(continuations=REFERENCE.continuations[:2]).has_chat


def test_no_server_fails_every_gate_that_asks_it() -> None:
    http, rpc = servers.free_ports(2)
    dead = Endpoint(host="127.0.0.1", http_port=http, grpc_port=rpc)
    report = gates.validate(dead, REFERENCE, prompts=PROMPTS, streaming=True)
    assert set(_outcomes(report).values()) == {"fail"}
    assert "ConnectError" in report.failures()


def test_report_survives_json_and_table_cells() -> None:
    nasty = "a | b <script> \n c"
    verdict = Verdict(gate="stop_word", outcome="fail", threshold="t", evidence=(nasty, "second"))
    report = Report(endpoint=Endpoint(host="h", http_port=1, grpc_port=2), verdicts=(verdict,))
    assert Report.model_validate_json(report.model_dump_json()) == report
    row = report.to_markdown().splitlines()[2]
    assert row == "| stop_word | fail | t | a \\| b &lt;script>   c<br>second |"
