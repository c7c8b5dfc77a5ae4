"""What a request means for a live model."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer

from include.live.api.answers import Answer
from include.live.api.failures import ApiError
from include.live.api.models import LiveModel, publish, published
from include.live.api.requests import ChatRequest, CompletionRequest, parse
from include.live.api.served import Models, Served

from .conftest import END, START, STOP, TEMPLATE, TOOL, byte_level, write

USER = {"role": "user", "content": "Hello"}
TOOLS = [{"type": "function", "function": {"name": "f", "parameters": {}}}]


def model_of(folder: Path, **changes: Any) -> LiveModel:
    fields = {
        "name": "m",
        "aliases": ["alias"],
        "release": "org--m/1",
        "tokenizer": folder,
        "max_input_len": 500,
        "max_seq_len": 600,
        "end_ids": [0],
        "streaming": True,
        "inputs": ["temperature"],
        "created": datetime.now(UTC),
    }
    return LiveModel.model_validate(fields | changes)


def chat(folder: Path, *messages: dict[str, Any], changes: dict[str, Any] | None = None, **options: Any) -> Answer:
    body = {"model": "m", "messages": list(messages) or [USER], **options}

    served = loaded(folder, json.dumps(changes or {}))
    (answer,) = asyncio.run(served.chat(parse(json.dumps(body).encode(), ChatRequest)))
    return answer


@cache
def loaded(folder: Path, changes: str) -> Served:
    return Served(model_of(folder, **json.loads(changes)))


def rendered(folder: Path, *messages: dict[str, Any], **options: Any) -> str:
    """The prompt as the model sees it, special tokens included."""
    ids = chat(folder, *messages, **options).job.prompt
    text: str = Tokenizer.from_file(str(folder / "tokenizer.json")).decode(list(ids), skip_special_tokens=False)
    return text


@pytest.fixture(scope="module")
def folder(byte_level_folder: Path) -> Path:
    return byte_level_folder


def test_a_conversation_is_rendered_by_the_models_own_template(folder: Path) -> None:
    turns = [{"role": "system", "content": "Be brief."}, USER, {"role": "assistant", "content": "Hi"}, USER]
    said = "".join(f"{START}{turn['role']}\n{turn['content']}{STOP}\n" for turn in turns)
    assert rendered(folder, *turns) == f"{said}{START}assistant\n"


def test_a_role_that_the_template_does_not_know_gets_its_former_name(folder: Path, tmp_path: Path) -> None:
    assert rendered(folder, {"role": "developer", "content": "x"}).startswith(f"{START}system")
    knows = write(tmp_path, byte_level(), chat_template=TEMPLATE + "{# developer #}")
    assert rendered(knows, {"role": "developer", "content": "x"}).startswith(f"{START}developer")


def test_tools_and_earlier_calls_reach_the_template(folder: Path) -> None:
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}
    turns = [USER, {"role": "assistant", "tool_calls": [call]}, {"role": "tool", "tool_call_id": "1", "content": "5"}]
    text = rendered(folder, *turns, tools=TOOLS)
    assert f'{TOOL}{{"name": "f", "arguments": {{"a": 1}}}}' in text
    assert '[{"type": "function", "function": {"name": "f", "parameters": {}}}]' in text
    assert chat(folder, tools=TOOLS).tools
    assert chat(folder, tools=TOOLS, tool_choice="none").tools is None
    assert "function" not in rendered(folder, USER, tools=TOOLS, tool_choice="none")


def test_tools_without_a_form_are_refused(tmp_path: Path) -> None:
    folder = write(tmp_path, byte_level(), chat_template="{{ messages[0].content }}")
    with pytest.raises(ApiError, match="no tools") as caught:
        chat(folder, tools=TOOLS)
    assert caught.value.param == "tools"


def test_of_several_templates_the_one_for_tools_is_taken(tmp_path: Path) -> None:
    templates = [
        {"name": "default", "template": "plain"},
        {"name": "tool_use", "template": "{% if tools %}with tools{% endif %}<tool_call>"},
    ]
    folder = write(tmp_path, byte_level(), chat_template=templates)
    assert rendered(folder) == "plain"
    assert rendered(folder, tools=TOOLS).startswith("with tools")


def test_variables_of_the_template_are_given_but_not_its_own(folder: Path, tmp_path: Path) -> None:
    thinks = write(tmp_path, byte_level(), chat_template="{{ bos_token }}{{ thinks }}{{ eos_token }}")
    assert rendered(thinks, chat_template_kwargs={"thinks": True}) == f"{END}True{STOP}"
    assert len(chat(thinks, chat_template_kwargs={"thinks": STOP}).job.prompt) > 3, "a client's token is text"
    with pytest.raises(ApiError, match="bos_token"):
        chat(folder, chat_template_kwargs={"bos_token": "x"})


def test_without_a_template_a_chat_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ApiError, match="/v1/completions"):
        chat(write(tmp_path, byte_level(), chat_template=None))


@pytest.mark.parametrize("role", ["system", "user", "assistant", "tool"])
def test_special_tokens_are_text_whoever_writes_them(folder: Path, role: str) -> None:
    plain = chat(folder, {"role": role, "content": "a"}).job.prompt
    forged = chat(folder, {"role": role, "content": f"{STOP}{START}{END}"}).job.prompt
    own = Tokenizer.from_file(str(folder / "tokenizer.json"))
    for token in map(own.token_to_id, (START, STOP, END)):
        assert list(forged).count(token) == list(plain).count(token)


def test_the_engine_draws_unless_it_is_told_not_to(folder: Path) -> None:
    default = chat(folder).job.sampling
    assert (default.temperature, default.top_p, default.top_k) == (1.0, 1.0, None)
    assert default.seed != chat(folder).job.sampling.seed
    assert chat(folder, seed=5).job.sampling.seed == 5
    assert chat(folder, seed=-1).job.sampling.seed == 2**63 - 1
    assert chat(folder, top_k=-1, top_p=0.5).job.sampling.top_k is None
    for greedy in ({"temperature": 0}, {"top_p": 0}, {"top_k": 1}):
        sampling = chat(folder, **greedy, presence_penalty=1, seed=3).job.sampling
        assert (sampling.temperature, sampling.top_p, sampling.top_k, sampling.seed) == (None, None, 1, None)
        assert sampling.presence_penalty == 1
    assert chat(folder, presence_penalty=0, repetition_penalty=1).job.sampling.repetition_penalty is None


def test_an_answer_may_be_as_long_as_what_fits(folder: Path) -> None:
    answer = chat(folder)
    assert answer.job.max_tokens == 600 - len(answer.job.prompt)
    assert chat(folder, max_tokens=5).job.max_tokens == 5
    assert chat(folder, max_tokens=5, max_completion_tokens=7).job.max_tokens == 7


@pytest.mark.parametrize(
    ("content", "options"),
    [("Hello", {"max_tokens": 600}), ("日" * 400, {}), ("a" * 100_000, {})],
    ids=["answer", "tokens", "characters"],
)
def test_what_does_not_fit_is_context_length_exceeded(folder: Path, content: str, options: dict[str, Any]) -> None:
    with pytest.raises(ApiError) as caught:
        chat(folder, {"role": "user", "content": content}, **options)
    assert (caught.value.code, caught.value.param) == ("context_length_exceeded", "messages")


def test_all_end_tokens_end_an_answer_and_stop_strings_where_nobody_reads_along(folder: Path) -> None:
    stop = Tokenizer.from_file(str(folder / "tokenizer.json")).token_to_id(STOP)
    streamed = chat(folder, stop="Hello")
    assert (streamed.ends, streamed.job.ends, streamed.stops) == ({stop, 0}, ((stop,), (0,)), ["Hello"])
    at_once = chat(folder, stop="Hello", changes={"streaming": False})
    assert len(at_once.job.ends) == 3


def test_a_prompt_is_taken_as_it_is(folder: Path) -> None:
    async def ask(prompt: Any) -> list[list[int]]:
        body = json.dumps({"model": "m", "prompt": prompt}).encode()
        answers = await Served(model_of(folder)).completion(parse(body, CompletionRequest))
        return [list(answer.job.prompt) for answer in answers]

    own = Tokenizer.from_file(str(folder / "tokenizer.json"))
    assert asyncio.run(ask(f"{START}Hello")) == [own.encode(f"{START}Hello").ids]
    assert asyncio.run(ask(["a", "b"])) == [own.encode("a").ids, own.encode("b").ids]
    assert asyncio.run(ask([[5], [6, 7]])) == [[5], [6, 7]]
    with pytest.raises(ApiError, match="no tokens"):
        asyncio.run(ask([[]]))
    size = own.get_vocab_size()
    with pytest.raises(ApiError, match=f"{size} is no token of model m, whose vocabulary has {size} tokens") as refused:
        asyncio.run(ask([[5], [6, size, 7]]))
    assert (refused.value.status, refused.value.param) == (400, "prompt")


def test_models_come_and_go_without_a_restart(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "models.json"
    said: list[str] = []

    async def story() -> None:
        live = Models(path, said.append)
        assert live.all() == ()
        with pytest.raises(ApiError, match="live are: none"):
            live.find("m")
        publish(path, [model_of(folder)])
        served = await live.served("alias")
        assert served is await live.served("m")
        publish(path, [model_of(folder, name="n", aliases=[])])
        assert (await live.served("n")) is not served
        with pytest.raises(ApiError, match="live are: n") as caught:
            await live.served("m")
        assert (caught.value.status, caught.value.code) == (404, "model_not_found")
        path.write_text("{")
        assert live.find("n").name == "n"
        (folder_of_none := tmp_path / "none").mkdir()
        publish(path, [model_of(folder_of_none)])
        with pytest.raises(ApiError) as damaged:
            await live.served("m")
        assert damaged.value.status == 500

    asyncio.run(story())
    assert len(said) == 2


def test_the_same_list_is_not_written_again(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "models.json"
    model = model_of(folder)
    publish(path, [model])
    before = path.stat()
    publish(path, [model])
    assert path.stat() == before
    assert published(path) == (model,)
