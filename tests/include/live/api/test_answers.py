"""From an engine's tokens to an answer: pieces, stop strings, tool calls, and why it ended."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from include.live.api.answers import Answer, Piece, StopStrings, together
from include.live.api.engine import Engine, Job, Sampling, _request
from include.live.api.failures import ApiError, invalid
from include.live.api.models import LiveModel
from include.live.api.replies import Reply
from include.live.api.tools import Calls, ToolForm, form_of
from include.live.api.vocabulary import Vocabulary
from include.model.tokenizer import TokenizerFacts

from .conftest import STOP, TEMPLATE

MODEL = LiveModel(
    name="m",
    release="org--m/1",
    tokenizer=Path("/none"),
    max_input_len=100,
    max_seq_len=200,
    streaming=True,
    inputs=frozenset({"temperature", "seed", "runtime_top_k", "runtime_top_p"}),
    created=datetime.now(UTC),
)
HERMES = form_of("{{ tools }}<tool_call>")
LLAMA = form_of('{{ tools }} ipython "parameters"')


class Said(Engine):
    """An engine that says some tokens, a few at a time."""

    def __init__(self, tokens: Sequence[int], size: int = 1, failure: Exception | None = None) -> None:
        self.tokens, self.size, self.failure = tokens, size, failure
        self.closed = 0

    async def generate(self, model: LiveModel, job: Job) -> AsyncIterator[Sequence[int]]:
        try:
            for start in range(0, len(self.tokens), self.size):
                await asyncio.sleep(0)
                yield self.tokens[start : start + self.size]
            if self.failure:
                raise self.failure
        finally:
            self.closed += 1


@pytest.fixture
def vocabulary(byte_level_folder: Path) -> Vocabulary:
    return Vocabulary(byte_level_folder, TokenizerFacts.read(byte_level_folder), TEMPLATE)


@pytest.fixture
def tokenizer(byte_level_folder: Path) -> Tokenizer:
    return Tokenizer.from_file(str(byte_level_folder / "tokenizer.json"))


def tokens(tokenizer: Tokenizer, text: str) -> list[int]:
    ids: list[int] = tokenizer.encode(text, add_special_tokens=False).ids
    return ids


def ask(engine: Said, vocabulary: Vocabulary, most: int = 1000, **options: Any) -> list[Piece]:
    async def all_of_it() -> list[Piece]:
        job = Job([1], most, Sampling())
        end = vocabulary.id_of(STOP)
        answer = Answer(0, job, vocabulary.decoder(), frozenset([end]), **options)
        async with aclosing(together([answer], engine, MODEL)) as pieces:
            return [piece async for piece in pieces]

    return asyncio.run(all_of_it())


def text_of(pieces: list[Piece]) -> str:
    return "".join(piece.text for piece in pieces)


@pytest.mark.parametrize("size", [1, 2, 100])
def test_an_answer_ends_at_its_end_token(vocabulary: Vocabulary, tokenizer: Tokenizer, size: int) -> None:
    ids = tokens(tokenizer, f"Hello 日本{STOP}more")
    pieces = ask(Said(ids, size), vocabulary)
    assert text_of(pieces) == "Hello 日本"
    assert pieces[-1].finish == "stop"
    assert pieces[-1].tokens == ids.index(vocabulary.id_of(STOP) or 0) + 1


def test_an_answer_that_was_cut_says_length_and_one_that_was_not_stop(
    vocabulary: Vocabulary, tokenizer: Tokenizer
) -> None:
    ids = tokens(tokenizer, "Hello")
    assert ask(Said(ids), vocabulary, most=len(ids))[-1].finish == "length"
    assert ask(Said(ids), vocabulary, most=len(ids) + 1)[-1].finish == "stop"


@pytest.mark.parametrize("size", [1, 3, 100])
def test_a_stop_string_is_found_across_tokens_and_stops_the_engine(
    vocabulary: Vocabulary, tokenizer: Tokenizer, size: int
) -> None:
    engine = Said(tokens(tokenizer, "How do I count to nine? And more" * 9), size)
    pieces = ask(engine, vocabulary, stops=["never", "nt to n"])
    assert text_of(pieces) == "How do I cou"
    assert (pieces[-1].finish, engine.closed) == ("stop", 1)
    assert pieces[-1].tokens < len(engine.tokens)


@given(
    st.text("abc", max_size=30),
    st.lists(st.text("abc", min_size=1, max_size=4), max_size=3),
    st.lists(st.integers(1, 5), min_size=1, max_size=40),
)
def test_stop_strings_end_a_text_however_it_is_divided(text: str, stops: list[str], sizes: list[int]) -> None:
    found, said, at = StopStrings(stops), "", 0
    for size in [*sizes, len(text)]:
        said += found.feed(text[at : at + size])
        at += size
        if found.found or at >= len(text):
            break
    ends = [text.index(stop) for stop in stops if stop in text]
    # The first whole one ends the answer, as an engine that looks at each token would find it.
    assert said + found.finish() == text[: len(said + found.finish())]
    assert found.found == bool(ends)
    if not ends:
        assert said + found.finish() == text
    else:
        assert not any(stop in said for stop in stops)


def test_closing_the_pieces_stops_the_engine(vocabulary: Vocabulary, tokenizer: Tokenizer) -> None:
    engine = Said(tokens(tokenizer, "Hello" * 99))

    async def begin() -> None:
        answers = [Answer(index, Job([1], 999, Sampling()), vocabulary.decoder(), ()) for index in range(3)]
        pieces = together(answers, engine, MODEL)
        await anext(pieces)
        await pieces.aclose()

    asyncio.run(begin())
    assert engine.closed == 3


def test_a_failure_of_one_ends_all(vocabulary: Vocabulary, tokenizer: Tokenizer) -> None:
    with pytest.raises(ApiError, match="wrong"):
        ask(Said(tokens(tokenizer, "Hello"), failure=invalid("wrong")), vocabulary)


def called(form: ToolForm | None, text: str, size: int) -> tuple[str, list[tuple[str, str]]]:
    calls, said = Calls(form), ""
    for at in range(0, len(text), size):
        said += calls.feed(text[at : at + size])
    rest, found = calls.finish()
    return said + rest, [(call.name, call.arguments) for call in found]


CALL = '<tool_call>\n{"name": "f", "arguments": {"a": {"b": [1]}}}\n</tool_call>'


@pytest.mark.parametrize("size", [1, 4, 1000])
@pytest.mark.parametrize(
    ("form", "text", "said", "calls"),
    [
        (HERMES, CALL, "", [("f", '{"a": {"b": [1]}}')]),
        (HERMES, f"So: {CALL}\n{CALL}", "So: ", [("f", '{"a": {"b": [1]}}')] * 2),
        (HERMES, '<tool_call>{"name": "f"}', "", [("f", "{}")]),
        (HERMES, "a < b <tool", "a < b <tool", []),
        (HERMES, "<tool_call>nothing</tool_call>", "<tool_call>nothing</tool_call>", []),
        (HERMES, '<tool_call>{"name": 5}</tool_call>', '<tool_call>{"name": 5}</tool_call>', []),
        (LLAMA, ' {"name": "f", "parameters": {"a": "é"}}', " ", [("f", '{"a": "é"}')]),
        (LLAMA, '{"a": 1}', '{"a": 1}', []),
        (LLAMA, 'like {"name": "f", "parameters": {}}', 'like {"name": "f", "parameters": {}}', []),
        (LLAMA, "plain", "plain", []),
        (None, CALL, CALL, []),
    ],
)
def test_calls_are_taken_out_of_the_text(
    form: ToolForm | None, text: str, said: str, calls: list[tuple[str, str]], size: int
) -> None:
    assert called(form, text, size) == (said, calls)


def test_a_form_of_calls_that_is_not_known_is_none() -> None:
    assert form_of("{{ messages }}") is None
    assert form_of("{{ tools }}[TOOL_CALLS]") is None


def test_a_call_ends_an_answer_as_openai_says(vocabulary: Vocabulary, tokenizer: Tokenizer) -> None:
    pieces = ask(Said(tokens(tokenizer, f"{CALL}{STOP}")), vocabulary, tools=HERMES)
    assert pieces[-1].finish == "tool_calls"
    reply = Reply("chat", MODEL, 3)
    (choice,) = reply.whole(pieces)["choices"]
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"]["content"] is None
    (call,) = choice["message"]["tool_calls"]
    assert (call["type"], call["function"]["name"]) == ("function", "f")
    assert json.loads(call["function"]["arguments"]) == {"a": {"b": [1]}}
    (streamed,) = reply.chunk(pieces[-1])["choices"][0]["delta"]["tool_calls"]
    assert streamed == {"index": 0, **call}


def inputs(job: Job, **changes: Any) -> dict[str, list[Any]]:
    import numpy as np

    request = _request(MODEL.model_copy(update=changes), job)
    types = {"INT32": np.int32, "FP32": np.float32, "UINT64": np.uint64, "BOOL": np.bool_}
    pairs = zip(request.inputs, request.raw_input_contents, strict=True)
    return {one.name: np.frombuffer(raw, types[one.datatype]).reshape(one.shape).tolist() for one, raw in pairs}


def test_a_job_becomes_the_engines_tensors() -> None:
    sampling = Sampling(temperature=0.5, top_k=3, seed=2**63 - 1, presence_penalty=1.0)
    sent = inputs(Job([5, 6, 7], 9, sampling, ends=[(2,), (3,), (4, 5)]))
    assert sent["input_ids"] == [[5, 6, 7]]
    assert (sent["input_lengths"], sent["request_output_len"], sent["end_id"]) == ([[3]], [[9]], [[2]])
    assert sent["stop_words_list"] == [[[3, 4, 5], [1, 3, -1]]]
    assert (sent["temperature"], sent["runtime_top_k"], sent["seed"]) == ([[0.5]], [[3]], [[2**63 - 1]])
    assert "runtime_top_p" not in sent, "not given"
    assert "presence_penalty" not in sent, "this engine does not know it"
    assert sent["streaming"] == [[True]]


@pytest.mark.parametrize(
    ("engine_ends", "end_id", "words"),
    [
        ({2, 3}, 2, None),
        ({3, 9}, 3, [[[2], [1]]]),
        ({9}, 2, [[[3], [1]]]),
    ],
)
def test_the_engines_own_end_tokens_are_no_stop_words(engine_ends: set[int], end_id: int, words: object) -> None:
    sent = inputs(Job([5], 9, Sampling(), ends=[(2,), (3,)]), engine_ends=frozenset(engine_ends))
    assert (sent["end_id"], sent.get("stop_words_list")) == ([[end_id]], words)


def test_a_release_that_does_not_stream_is_not_asked_to() -> None:
    sent = inputs(Job([5], 9, Sampling()), streaming=False)
    assert "streaming" not in sent
    assert (sent["end_id"], "stop_words_list" in sent) == ([[-1]], False)
