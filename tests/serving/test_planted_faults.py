"""Real Triton servers on the tiny engine that are ready, but answer wrongly: the gate meant for that says so.

With a real model, and faults in its weights: tests/e2e.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from include.gates import Client, Continuation, Reference, Report, Trial, gates_for, validate
from include.gates import Endpoint as Address
from include.requests.release import ReleaseRequest
from include.targets import pytriton
from include.triton import repository, servers
from tests.support.echo import free
from tests.support.planted import swapped_tokenizer

from .conftest import PYTHON, TEMPLATES, Endpoint, values

PROMPTS = ("How do I count to nine", "The quick brown fox", "Once upon a time", "Python is a language")
# Speed has tests of its own, a random model has no quality, and no original was asked the tasks.
GATES = tuple(gate for gate in gates_for(ReleaseRequest()) if gate.name not in ("speed", "quality", "tasks"))
TOKENS = 32

# Where the faulty server's code goes wrong while the fault's name stands in a file.
PATCHES = (
    ("postprocessing/1/model.py", "return text[: len(text) - overhang]", "return said(text, bool(context))"),
    ("tensorrt_llm/1/options.py", "max_new_tokens = self.max_tokens", "max_new_tokens = most(self.max_tokens)"),
    (
        "tensorrt_llm/1/engine.py",
        "listener.tokens(_new_tokens(handle))",
        "listener.tokens(spoken(_new_tokens(handle)))",
    ),
)
FUNCTIONS = """

def planted(fault):
    return open({switch!r}).read() == fault

def said(text, later):
    return "" if planted("empty") else text[1:] if later and planted("streams otherwise") else text

def most(tokens):
    return min(tokens, 3) if planted("stops early") else tokens

def spoken(ids):
    return [100] * len(ids) if planted("goes round in circles") else ids
"""
FAULTS = {
    "empty": "test_prompts",
    "stops early": "end_token",
    "goes round in circles": "repetition",
    "streams otherwise": "streaming",
}


@dataclass(frozen=True)
class Faulty:
    """A server whose faults can be switched on."""

    endpoint: Endpoint
    switch: Path


@pytest.fixture(scope="module")
def faulty(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Faulty]:
    root = tmp_path_factory.mktemp("faulty")
    repository.assemble(TEMPLATES, values(tiny, streaming=True, chat=False), root / "repository")
    for file, code, wrong in PATCHES:
        path = root / "repository" / file
        text = path.read_text()
        assert text.count(code) == 1
        path.write_text(text.replace(code, wrong) + FUNCTIONS.format(switch=str(root / "fault")))
    (root / "fault").write_text("")
    with _running(root) as endpoint:
        yield Faulty(endpoint, root / "fault")


@pytest.fixture(scope="module")
def swapped(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Endpoint]:
    root = tmp_path_factory.mktemp("swapped")
    wrong = str(swapped_tokenizer(tiny / "tokenizer", root / "tokenizer"))
    filled = values(tiny, streaming=True, chat=False)
    other = {model: {k: wrong if k == "tokenizer_dir" else v for k, v in m.items()} for model, m in filled.items()}
    repository.assemble(TEMPLATES, other, root / "repository")
    with _running(root) as endpoint:
        yield endpoint


@contextmanager
def _running(root: Path) -> Iterator[Endpoint]:
    plan = pytriton.server("openvino", pytriton.ask(PYTHON), root / "repository", free())
    record = servers.launch(plan, root / "server.json", timeout_s=120)
    try:
        yield Endpoint(record)
    finally:
        servers.stop(record, root / "server.json", grace_s=20)


@pytest.fixture(scope="module")
def reference(streaming: Endpoint) -> Reference:
    """What the healthy server says; it stands in for the checkpoint."""
    ids = tuple(range(TOKENS))
    texts = {prompt: streaming.text(prompt, TOKENS, top_k=1) for prompt in PROMPTS}
    return Reference(
        continuations=tuple(
            Continuation(prompt=p, prompt_ids=ids, after_ids=ids, after_text=t) for p, t in texts.items()
        )
    )


def _judge(endpoint: Endpoint, reference: Reference, tokenizer: Path, served: Path | None = None) -> Report:
    ports = endpoint.record.ports
    with Client.open(Address(host="127.0.0.1", http_port=ports.http, grpc_port=ports.grpc)) as client:
        trial = Trial(
            client,
            PROMPTS,
            streaming=True,
            reference=reference,
            repository=served or endpoint.record.repository,
            tokenizer=tokenizer,
        )
        return validate(trial, GATES)


def _failed(report: Report) -> set[str]:
    return {verdict.gate for verdict in report.verdicts if verdict.outcome == "fail"}


def test_healthy_server_passes(faulty: Faulty, reference: Reference, tiny: Path) -> None:
    faulty.switch.write_text("")
    report = _judge(faulty.endpoint, reference, tiny / "tokenizer")
    assert {verdict.outcome for verdict in report.verdicts} == {"pass"}, report.to_markdown()


@pytest.mark.parametrize(("fault", "gate"), FAULTS.items(), ids=FAULTS)
def test_planted_fault_is_caught(faulty: Faulty, reference: Reference, tiny: Path, fault: str, gate: str) -> None:
    faulty.switch.write_text(fault)
    report = _judge(faulty.endpoint, reference, tiny / "tokenizer")
    assert {"ready", "templates"}.isdisjoint(_failed(report))
    assert gate in _failed(report), report.to_markdown()


def test_swapped_tokenizer_is_caught(swapped: Endpoint, reference: Reference, tiny: Path) -> None:
    report = _judge(swapped, reference, tiny / "tokenizer")
    assert {"ready", "templates"}.isdisjoint(_failed(report))
    assert "agreement" in _failed(report), report.to_markdown()


def test_server_of_another_repository_is_caught(swapped: Endpoint, streaming: Endpoint, reference: Reference) -> None:
    report = _judge(streaming, reference, swapped.record.repository, served=swapped.record.repository)
    assert "templates" in _failed(report)
    assert "preprocessing: parameters" in report.failures()
