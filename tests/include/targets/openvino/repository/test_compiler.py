from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import openvino as ov  # noqa: TID253
import openvino_genai as genai
import pytest
from compiler import Busy, GrammarCompiler, max_states
from grammar import grammar_without
from pipeline import Capacity, EngineConfig, load_pipeline, load_tokenizer

TIMEOUT_S = 60
VOCABULARY = 1000


@pytest.fixture(scope="module")
def tokenizer(tokenizer_dir: Path) -> genai.Tokenizer:
    return load_tokenizer(tokenizer_dir)


@pytest.fixture(scope="module")
def compiler(tokenizer: genai.Tokenizer) -> Iterator[GrammarCompiler]:
    compiler = GrammarCompiler(tokenizer, VOCABULARY)
    yield compiler
    compiler.close()


def _grammar(letter: str, words: int = 60) -> str:
    return grammar_without([f"{letter}{number:02d}abc" for number in range(words)])


def _wait_for(compiler: GrammarCompiler, grammar: str) -> str:
    said: list[str] = []
    over = threading.Event()

    def end(how: str = "done") -> None:
        said.append(how)
        over.set()

    compiler.compile([grammar], end, end, lambda: False)
    assert over.wait(TIMEOUT_S)
    return said[0]


def test_the_engine_finds_what_was_compiled(
    compiler: GrammarCompiler, tokenizer: genai.Tokenizer, engine_dir: Path
) -> None:
    pipeline = load_pipeline(engine_dir, tokenizer, EngineConfig(VOCABULARY, {}), Capacity(4, 64, 1, True))

    def step_with(number: int, grammar: str) -> float:
        config = genai.GenerationConfig(max_new_tokens=1, ignore_eos=True)
        config.structured_output_config = genai.StructuredOutputConfig(grammar=grammar)
        handle = pipeline.add_request(number, ov.Tensor(np.array([[5, 6]], np.int64)), config)
        begun = time.monotonic()
        while pipeline.has_non_finished_requests():
            pipeline.step()
        assert handle.can_read()
        return time.monotonic() - begun

    assert _wait_for(compiler, _grammar("x")) == "done"
    assert step_with(1, _grammar("x")) < step_with(2, _grammar("y")) / 2


def test_python_goes_on_while_it_compiles(compiler: GrammarCompiler) -> None:
    over = threading.Event()
    compiler.compile([_grammar("z")], over.set, pytest.fail, lambda: False)
    longest, last = 0.0, time.monotonic()
    while not over.is_set():
        time.sleep(0.001)
        longest, last = max(longest, time.monotonic() - last), time.monotonic()
    assert longest < 0.2


def test_what_cannot_be_compiled_is_told_and_costs_that_request_only(compiler: GrammarCompiler) -> None:
    assert _wait_for(compiler, "root :") != "done"
    assert _wait_for(compiler, _grammar("v", words=2)) == "done"


def test_beyond_those_that_wait_it_is_busy(compiler: GrammarCompiler) -> None:
    with pytest.raises(Busy, match="16 other requests"):
        for number in range(40):
            compiler.compile([_grammar(chr(200 + number))], lambda: None, pytest.fail, lambda: False)


@pytest.mark.parametrize(("vocabulary", "states"), [(1000, 400), (49_152, 184), (128_000, 71)])
def test_the_larger_the_vocabulary_the_fewer_states(vocabulary: int, states: int) -> None:
    assert max_states(vocabulary) == states
