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
from options import InvalidRequest, Options
from pipeline import Capacity, EngineConfig, load_pipeline, load_tokenizer

from tests.support.tiny_models import write_large_tokenizer

TIMEOUT_S = 60
VOCABULARY, LARGE = 1000, 128_000


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


def _asking(grammar: str) -> genai.GenerationConfig:
    config = genai.GenerationConfig(max_new_tokens=1, ignore_eos=True)
    config.structured_output_config = genai.StructuredOutputConfig(grammar=grammar)
    return config


def _wait_for(compiler: GrammarCompiler, grammar: str) -> str:
    said: list[str] = []
    over = threading.Event()

    def end(how: str = "done") -> None:
        said.append(how)
        over.set()

    compiler.compile([_asking(grammar)], end, end, lambda: False)
    assert over.wait(TIMEOUT_S)
    return said[0]


def test_the_engine_finds_what_was_compiled(
    compiler: GrammarCompiler, tokenizer: genai.Tokenizer, engine_dir: Path
) -> None:
    pipeline = load_pipeline(engine_dir, tokenizer, EngineConfig(VOCABULARY, {}), Capacity(4, 64, 1, True))

    def step_with(number: int, grammar: str) -> float:
        handle = pipeline.add_request(number, ov.Tensor(np.array([[5, 6]], np.int64)), _asking(grammar))
        begun = time.monotonic()
        while pipeline.has_non_finished_requests():
            pipeline.step()
        assert handle.can_read()
        return time.monotonic() - begun

    assert _wait_for(compiler, _grammar("x")) == "done"
    assert step_with(1, _grammar("x")) < step_with(2, _grammar("y")) / 2


def test_python_goes_on_while_it_compiles(compiler: GrammarCompiler) -> None:
    over = threading.Event()
    compiler.compile([_asking(_grammar("z"))], over.set, pytest.fail, lambda: False)
    assert _steps_until(over) > 10


def test_what_cannot_be_compiled_is_told_and_costs_that_request_only(compiler: GrammarCompiler) -> None:
    assert _wait_for(compiler, "root :") != "done"
    assert _wait_for(compiler, _grammar("v", words=2)) == "done"


def test_beyond_those_that_wait_it_is_busy(compiler: GrammarCompiler) -> None:
    with pytest.raises(Busy, match="16 other requests"):
        for number in range(40):
            compiler.compile([_asking(_grammar(chr(200 + number)))], lambda: None, pytest.fail, lambda: False)


def _steps_until(over: threading.Event) -> int:
    """How often Python got to run meanwhile: once or twice if what it waits for holds it."""
    steps = 0
    while not over.wait(0.001):
        steps += 1
    return steps


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GrammarCompiler]:
    path = tmp_path_factory.mktemp("large")
    write_large_tokenizer(path, LARGE)
    tokenizer = load_tokenizer(path)
    assert len(tokenizer.get_vocab()) == LARGE
    compiler = GrammarCompiler(tokenizer, LARGE)
    yield compiler
    compiler.close()


MOST = [["x" * 71], [f"word{number}" for number in range(10)] + [","] * 21]


@pytest.mark.parametrize("words", MOST, ids=["one long word", "some words"])
def test_with_a_large_vocabulary_the_most_words_compile_and_stop_nobody(
    large: GrammarCompiler, words: list[str]
) -> None:
    config = Options(max_tokens=1, end_id=0).generation_config(words, LARGE)
    over = threading.Event()
    large.compile([config], over.set, pytest.fail, lambda: False)
    assert _steps_until(over) > 10


@pytest.mark.parametrize(
    "words",
    [["x" * 72], [f"word{number:02d}abcdefg" for number in range(50)], [f"{number:03d}x" for number in range(200)]],
    ids=["one long word", "50 words", "200 words"],
)
def test_with_a_large_vocabulary_more_words_are_the_clients_fault(words: list[str]) -> None:
    with pytest.raises(InvalidRequest, match="bad_words have more than 71 characters"):
        Options(max_tokens=1, end_id=0).generation_config(words, LARGE)


@pytest.mark.parametrize(("vocabulary", "states"), [(1000, 400), (49_152, 184), (128_000, 71)])
def test_the_larger_the_vocabulary_the_fewer_states(vocabulary: int, states: int) -> None:
    assert max_states(vocabulary) == states
