"""What of OpenAI's requests is accepted, and how the rest is refused."""

from __future__ import annotations

import json
from typing import Any

import pytest

from include.live.api.failures import ApiError
from include.live.api.requests import ChatRequest, CompletionRequest, parse

CHAT: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
COMPLETION: dict[str, Any] = {"model": "m", "prompt": "hi"}
FUNCTION = {"name": "f", "parameters": {"type": "object"}}


def chat(**fields: Any) -> ChatRequest:
    return parse(json.dumps(CHAT | fields).encode(), ChatRequest)


def refused(kind: type[ChatRequest] | type[CompletionRequest], body: object) -> ApiError:
    with pytest.raises(ApiError) as caught:
        parse(body if isinstance(body, bytes) else json.dumps(body).encode(), kind)
    return caught.value


@pytest.mark.parametrize(
    "field",
    [
        {"n": 1},
        {"n": None},
        {"logprobs": False},
        {"logit_bias": {}},
        {"response_format": {"type": "text"}},
        {"user": "someone"},
        {"metadata": {"a": "b"}},
        {"store": False},
        {"service_tier": "auto"},
        {"parallel_tool_calls": True},
        {"tools": [{"type": "function", "function": FUNCTION | {"description": "d", "strict": False}}]},
        {"tool_choice": "none"},
        {"stop": ["a", "b"]},
        {"stop": None},
        {"temperature": 1},
        {"seed": -1},
        {"stream": True, "stream_options": {"include_usage": True}},
        {"top_k": -1, "repetition_penalty": 1.1, "chat_template_kwargs": {"enable_thinking": False}},
    ],
    ids=str,
)
def test_what_asks_for_nothing_special_is_accepted(field: dict[str, Any]) -> None:
    assert chat(**field).model == "m"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("n", 2),
        ("n", True),
        ("logprobs", True),
        ("top_logprobs", 3),
        ("logit_bias", {"5": 1}),
        ("response_format", {"type": "json_object"}),
        ("response_format", {"type": "json_schema", "json_schema": {}}),
        ("modalities", ["audio"]),
        ("audio", {"voice": "x"}),
        ("functions", [FUNCTION]),
        ("web_search_options", {}),
        ("parallel_tool_calls", False),
        ("reasoning_effort", "high"),
        ("prediction", {"type": "content"}),
        ("verbosity", "low"),
        ("guided_json", {}),
        ("anything", 1),
    ],
)
def test_what_is_not_supported_is_refused_by_name(field: str, value: Any) -> None:
    error = refused(ChatRequest, CHAT | {field: value})
    assert (error.status, error.param, error.code) == (400, field, "unsupported_parameter")
    assert field in error.message
    assert error.body()["error"]["type"] == "invalid_request_error"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("model", 5),
        ("model", ""),
        ("messages", []),
        ("messages", "hi"),
        ("messages", {}),
        ("temperature", "hot"),
        ("temperature", 2.1),
        ("temperature", -0.1),
        ("temperature", True),
        ("top_p", 1.5),
        ("top_k", 1.5),
        ("max_tokens", 0),
        ("max_tokens", "5"),
        ("max_completion_tokens", -1),
        ("presence_penalty", 3),
        ("frequency_penalty", -3),
        ("repetition_penalty", 0),
        ("seed", 2**63),
        ("seed", 1.5),
        ("stream", "true"),
        ("stream", 1),
        ("stream_options", {"include_usage": True}),
        ("tool_choice", "required"),
        ("tool_choice", {"type": "function", "function": {"name": "f"}}),
    ],
)
def test_a_wrong_value_is_named(field: str, value: Any) -> None:
    error = refused(ChatRequest, CHAT | {field: value})
    assert (error.status, (error.param or "").split(".")[0]) == (400, field)


@pytest.mark.parametrize("value", ["", [""], [1], ["a"] * 17, {"a": 1}, 5])
def test_a_wrong_stop_is_named(value: Any) -> None:
    assert (refused(ChatRequest, CHAT | {"stop": value}).param or "").startswith("stop")


@pytest.mark.parametrize(
    ("message", "param"),
    [
        ({"role": "martian", "content": "hi"}, "messages.0.role"),
        ({"role": "function", "content": "hi", "name": "f"}, "messages.0.role"),
        ({"content": "hi"}, "messages.0.role"),
        ({"role": "user"}, "messages.0"),
        ({"role": "user", "content": 5}, "messages.0.content"),
        ({"role": "user", "content": None}, "messages.0"),
        ({"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}, "messages.0.content.0.type"),
        ({"role": "user", "content": "hi", "image": "x"}, "messages.0.image"),
        ({"role": "assistant", "tool_calls": [{"id": "1", "function": {}}]}, "messages.0.tool_calls.0.function.name"),
        ("hi", "messages.0"),
        (None, "messages.0"),
    ],
    ids=str,
)
def test_a_wrong_message_is_named(message: Any, param: str) -> None:
    error = refused(ChatRequest, CHAT | {"messages": [message]})
    assert (error.status, error.param) == (400, param)


def test_an_image_is_refused_in_plain_words() -> None:
    content = [{"type": "text", "text": "a"}, {"type": "image_url", "image_url": {"url": "x"}}]
    error = refused(ChatRequest, CHAT | {"messages": [{"role": "user", "content": content}]})
    assert error.message.endswith("content parts of type 'image_url' are not supported: only text")


@pytest.mark.parametrize(
    "body", [b"", b"nothing", b"[]", b"5", b"null", b"{", b"\xff", b'{"a":' * 900, b'{"model": NaN}']
)
@pytest.mark.parametrize("kind", [ChatRequest, CompletionRequest])
def test_a_body_that_is_no_object_is_400(kind: type[ChatRequest], body: bytes) -> None:
    assert refused(kind, body).status == 400


def test_half_a_surrogate_pair_is_400() -> None:
    assert refused(ChatRequest, rb'{"model": "m", "messages": [{"role": "user", "content": "\ud800"}]}').status == 400


def test_parts_of_text_are_one_text() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    assert chat(messages=[{"role": "user", "content": parts}]).messages[0].text == "ab"


def test_an_answer_may_come_back_as_a_message() -> None:
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    answer = {"role": "assistant", "content": None, "refusal": None, "annotations": [], "tool_calls": [call]}
    result = {"role": "tool", "tool_call_id": "1", "content": "5"}
    assert [one.role for one in chat(messages=[answer, result]).messages] == ["assistant", "tool"]


@pytest.mark.parametrize(
    ("prompt", "prompts"),
    [("a", ["a"]), (["a", "b"], ["a", "b"]), ([1, 2], [[1, 2]]), ([[1], [2, 3]], [[1], [2, 3]])],
    ids=str,
)
def test_prompts_of_all_forms(prompt: Any, prompts: Any) -> None:
    assert parse(json.dumps(COMPLETION | {"prompt": prompt}).encode(), CompletionRequest).prompts == prompts


@pytest.mark.parametrize("prompt", [5, {}, [1, "a"], [[1], "a"], [-1], [2**31], [1.5], [True], [[]] * 65], ids=str)
def test_a_wrong_prompt_is_named(prompt: Any) -> None:
    with pytest.raises(ApiError) as caught:
        _ = parse(json.dumps(COMPLETION | {"prompt": prompt}).encode(), CompletionRequest).prompts
    assert (caught.value.param or "").startswith("prompt")


@pytest.mark.parametrize(("field", "value"), [("echo", True), ("best_of", 2), ("suffix", "x"), ("logprobs", 2)])
def test_what_completions_do_not_support_is_refused_by_name(field: str, value: Any) -> None:
    assert refused(CompletionRequest, COMPLETION | {field: value}).param == field


LM_EVAL = {"max_tokens": 256, "temperature": 0.0, "seed": 1234, "stop": ["Question:", "</s>", "<|im_end|>"]}
"""The fields of lm-eval 0.4.13 for gsm8k (models/openai_completions.py, tasks/gsm8k/gsm8k.yaml)."""


def test_what_lm_eval_sends_for_a_task_that_generates_is_accepted() -> None:
    assert chat(**LM_EVAL).stops == LM_EVAL["stop"]
    body = {"model": "m", "prompt": ["Question: 2 + 2?\nAnswer:"], **LM_EVAL}
    assert parse(json.dumps(body).encode(), CompletionRequest).stops == LM_EVAL["stop"]


def test_what_lm_eval_sends_for_multiple_choice_is_refused_by_name() -> None:
    body = {"model": "m", "prompt": ["a"], "temperature": 0, "max_tokens": 1, "logprobs": 1, "seed": 1, "echo": True}
    assert any(field in str(refused(CompletionRequest, body)) for field in ("echo", "logprobs"))
