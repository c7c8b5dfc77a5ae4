"""The openvino target's repository in a real Triton: what a client gets for what it sends."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import numpy as np
import pytest
import tritonclient.grpc as triton  # noqa: TID253

from include.host.services.process import process_of
from include.triton import servers
from tests.support.wait import wait_for

from .conftest import MAX_INPUT_LEN, MAX_SEQ_LEN, Endpoint, Serve

PROMPT = "How do I count to nine"
TIMEOUT_S = 60
ENDLESS = {"text_input": PROMPT, "max_tokens": MAX_SEQ_LEN - MAX_INPUT_LEN, "end_id": -1}


def _error(response: httpx.Response) -> str:
    return str(response.json()["error"])


def _ask_engine(endpoint: Endpoint, ids: list[int], options: dict[str, int]) -> httpx.Response:
    """The engine itself, with token ids."""
    numbers = {"input_lengths": len(ids), "request_output_len": 12} | options
    inputs = [{"name": "input_ids", "shape": [1, len(ids)], "datatype": "INT32", "data": ids}]
    inputs += [{"name": n, "shape": [1, 1], "datatype": "INT32", "data": [value]} for n, value in numbers.items()]
    return endpoint.post({"inputs": inputs}, model="tensorrt_llm", kind="infer")


def _engine_ids(endpoint: Endpoint, options: dict[str, int]) -> list[int]:
    outputs = _ask_engine(endpoint, [5, 6, 7], options).json()["outputs"]
    return next(output["data"] for output in outputs if output["name"] == "output_ids")


def _events(endpoint: Endpoint, body: dict[str, Any]) -> list[dict[str, Any]]:
    url = f"{endpoint.record.url}/v2/models/ensemble/generate_stream"
    with httpx.stream("POST", url, json=body, timeout=60) as response:
        return [json.loads(line.removeprefix("data:")) for line in response.iter_lines() if line.startswith("data:")]


def test_nested_and_flat_form_get_the_same_answer(plain: Endpoint) -> None:
    nested = {"text_input": PROMPT, "parameters": {"max_tokens": 20, "bad_words": [""], "stop_words": [""]}}
    assert plain.post(nested).json()["text_output"] == plain.text(PROMPT) != ""


def test_chat_template_wraps_the_prompt_where_the_repository_says_so(plain: Endpoint, streaming: Endpoint) -> None:
    rendered = f"<|im_start|>user\n{PROMPT}<|im_end|>\n<|im_start|>assistant\n"
    assert plain.text(PROMPT) == streaming.text(rendered) != streaming.text(PROMPT)


def test_counts_come_when_asked_for(plain: Endpoint) -> None:
    body = {"text_input": PROMPT, "max_tokens": 7, "end_id": -1}
    assert "num_output_tokens" not in plain.post(body).json()
    counted = plain.post(body | {"return_num_output_tokens": True, "return_num_input_tokens": True}).json()
    assert counted["num_output_tokens"] == 7
    assert 10 < counted["num_input_tokens"] < MAX_INPUT_LEN


def test_each_streamed_response_counts_its_own_tokens(streaming: Endpoint) -> None:
    """As upstream's do (TensorRT-LLM pull request 5445)."""
    body = {"text_input": PROMPT, "max_tokens": 7, "end_id": -1, "stream": True, "return_num_output_tokens": True}
    counts = [event["num_output_tokens"] for event in _events(streaming, body)]
    assert len(counts) > 1
    assert sum(counts) == 7


def test_prompt_comes_with_the_answer_when_asked_for(streaming: Endpoint) -> None:
    assert streaming.text(PROMPT, exclude_input_in_output=False) == PROMPT + streaming.text(PROMPT)


def test_answer_ends_with_the_stop_word(plain: Endpoint) -> None:
    whole = plain.text(PROMPT, 40)
    word = whole[10:14]
    stopped = plain.text(PROMPT, 40, stop_words=["never there", word])
    assert stopped == whole[: whole.index(word) + len(word)]


def test_bad_words_do_not_come(plain: Endpoint) -> None:
    whole = plain.text(PROMPT, 40)
    words = [whole[4:7], "e"]
    without = plain.text(PROMPT, 40, bad_words=words)
    assert without
    assert not [word for word in words if word in without]


def test_end_id_ends_the_answer_and_is_no_part_of_it(plain: Endpoint) -> None:
    whole = _engine_ids(plain, {})
    assert len(whole) == 12
    assert _engine_ids(plain, {"end_id": whole[5]}) == whole[: whole.index(whole[5])]


def test_each_of_the_models_end_tokens_ends_the_answer(plain: Endpoint, serve: Serve) -> None:
    whole = _engine_ids(plain, {})
    until = whole[: whole.index(whole[5])]
    several = serve(streaming=False, chat=True, end_ids=f"0 {whole[5]}")
    assert _engine_ids(several, {}) == _engine_ids(several, {"end_id": 0}) == until
    assert _engine_ids(several, {"end_id": -1}) == whole
    assert several.text(PROMPT, bad_words=["e"])


def test_seed_decides_what_is_drawn(plain: Endpoint) -> None:
    drawn = [plain.text(PROMPT, top_k=50, temperature=2.0, seed=seed) for seed in (3, 3, 4)]
    assert drawn[0] == drawn[1] != drawn[2]


def test_without_a_seed_the_same_is_drawn_each_time(plain: Endpoint) -> None:
    drawn = {"top_k": 50, "temperature": 2.0}
    assert plain.text(PROMPT, **drawn) == plain.text(PROMPT, **drawn) == plain.text(PROMPT, seed=0, **drawn)
    assert plain.text(PROMPT, temperature=2.0) == plain.text(PROMPT)


def test_penalty_changes_the_answer(plain: Endpoint) -> None:
    assert plain.text(PROMPT, 60) != plain.text(PROMPT, 60, repetition_penalty=2.0)


def test_answers_are_the_same_beside_others(plain: Endpoint) -> None:
    prompts = [f"{PROMPT} {number}" for number in range(12)]
    alone = [plain.text(prompt, 60) for prompt in prompts]
    with ThreadPoolExecutor(len(prompts)) as pool:
        assert list(pool.map(lambda prompt: plain.text(prompt, 60), prompts)) == alone


def test_several_prompts_in_one_request_are_answered_in_order(streaming: Endpoint, plain: Endpoint) -> None:
    prompts = ["a", "How do I count to nine", "The quick brown"]
    body = {
        "inputs": [
            {"name": "text_input", "shape": [3, 1], "datatype": "BYTES", "data": prompts},
            {"name": "max_tokens", "shape": [3, 1], "datatype": "INT32", "data": [5, 10, 15]},
            {"name": "stop_words", "shape": [3, 2], "datatype": "BYTES", "data": ["", "", "zz", "y", "", ""]},
        ]
    }
    outputs = {o["name"]: o["data"] for o in plain.post(body, kind="infer").json()["outputs"]}
    singly = [plain.text(prompts[0], 5), plain.text(prompts[1], 10, stop_words=["y"]), plain.text(prompts[2], 15)]
    assert outputs["text_output"] == singly
    assert outputs["batch_index"] == [0, 1, 2]


@pytest.mark.parametrize("form", ["flat", "nested"])
@pytest.mark.parametrize(
    ("options", "message"),
    [
        pytest.param({"max_tokens": 0}, "max_tokens must be at least 1", id="max_tokens 0"),
        pytest.param({"max_tokens": MAX_SEQ_LEN}, f"max_seq_len {MAX_SEQ_LEN}", id="answer too long"),
        pytest.param({"beam": 2}, "not supported by this engine: beam", id="unknown option"),
        pytest.param({"top_p": 2.0}, "top_p", id="outside the limits"),
        pytest.param({"top_k": -1}, "top_k must not be negative", id="negative"),
        pytest.param({"stream": True}, "decoupled_mode", id="streaming without decoupled mode"),
        pytest.param({"bad_words": ["a"], "end_id": 7}, "bad_words need end_id 0", id="bad words, other end"),
    ],
)
def test_what_cannot_be_honoured_is_refused(plain: Endpoint, options: dict[str, Any], message: str, form: str) -> None:
    given = {"max_tokens": 5} | options
    response = plain.post({"text_input": PROMPT} | (given if form == "flat" else {"parameters": given}))
    assert response.status_code == httpx.codes.BAD_REQUEST
    assert message in _error(response)


def test_missing_max_tokens_is_refused(plain: Endpoint) -> None:
    response = plain.post({"text_input": PROMPT})
    assert response.status_code == httpx.codes.BAD_REQUEST
    assert "max_tokens" in _error(response)


@pytest.mark.parametrize("text", ["", "count " * 500], ids=["empty", "too long"])
def test_prompt_of_no_or_too_many_tokens_is_refused_alone(streaming: Endpoint, text: str) -> None:
    with ThreadPoolExecutor(2) as pool:
        good = pool.submit(streaming.text, PROMPT, 200)
        response = streaming.post({"text_input": text, "max_tokens": 5})
    assert response.status_code == httpx.codes.BAD_REQUEST
    assert "tokens" in _error(response)
    assert good.result()


@pytest.mark.parametrize(
    ("ids", "said"),
    [
        pytest.param([5, 1000], "1000 is no token of this model, whose vocabulary has the ids 0 to 999", id="beyond"),
        pytest.param([-1], "-1 is no token of this model", id="negative"),
        pytest.param([], "no tokens", id="none"),
    ],
)
def test_engine_refuses_ids_that_are_none(plain: Endpoint, ids: list[int], said: str) -> None:
    response = _ask_engine(plain, ids, {})
    assert response.status_code == httpx.codes.BAD_REQUEST
    assert said in _error(response)


@pytest.mark.parametrize("options", [{}, {"exclude_input_in_output": False}], ids=["answer", "with the prompt"])
def test_streamed_pieces_join_to_the_answer_without_the_prompt(streaming: Endpoint, options: dict[str, Any]) -> None:
    events = _events(streaming, {"text_input": PROMPT, "max_tokens": 300, "stream": True} | options)
    assert "".join(event["text_output"] for event in events) == streaming.text(PROMPT, 300)
    assert len(events) > 100


def test_streamed_answer_ends_with_the_stop_word(streaming: Endpoint) -> None:
    whole = streaming.text(PROMPT, 60)
    word = whole[50:55]
    events = _events(streaming, {"text_input": PROMPT, "max_tokens": 60, "stream": True, "stop_words": [word]})
    assert "".join(event["text_output"] for event in events) == whole[: whole.index(word) + len(word)]


def test_repository_that_streams_answers_at_once_when_not_asked_to_stream(streaming: Endpoint) -> None:
    (event,) = _events(streaming, {"text_input": PROMPT, "max_tokens": 20})
    assert event["text_output"] == streaming.text(PROMPT)


def test_error_of_a_stream_comes_as_its_only_event(streaming: Endpoint) -> None:
    (event,) = _events(streaming, {"text_input": PROMPT, "max_tokens": 0, "stream": True})
    assert "max_tokens must be at least 1" in event["error"]


def test_answers_of_many_streams_keep_apart(streaming: Endpoint) -> None:
    prompts = [f"{PROMPT} {number}" for number in range(8)]

    def streamed(prompt: str) -> str:
        events = _events(streaming, {"text_input": prompt, "max_tokens": 80, "stream": True})
        return "".join(event["text_output"] for event in events)

    with ThreadPoolExecutor(len(prompts)) as pool:
        together = list(pool.map(streamed, prompts))
    assert together == [streaming.text(prompt, 80) for prompt in prompts]


def test_stream_whose_client_has_gone_is_cancelled(streaming: Endpoint) -> None:
    before = streaming.record.log.read_text().count("cancelled after")
    url = f"{streaming.record.url}/v2/models/ensemble/generate_stream"
    with httpx.stream("POST", url, json=ENDLESS | {"stream": True}, timeout=60) as response:
        next(response.iter_lines())
    wait_for(lambda: streaming.record.log.read_text().count("cancelled after") > before)


def test_engine_request_that_is_cancelled_ends(streaming: Endpoint) -> None:
    before = streaming.record.log.read_text().count("cancelled after")

    def tensor(name: str, value: int) -> triton.InferInput:
        given = triton.InferInput(name, [1, 1], "INT32")
        given.set_data_from_numpy(np.array([[value]], np.int32))
        return given

    inputs = [tensor("input_ids", 5), tensor("input_lengths", 1), tensor("request_output_len", 20_000)]
    with triton.InferenceServerClient(f"127.0.0.1:{streaming.record.ports.grpc}") as client:
        # The request counts as begun once the engine has taken it.
        taken = _executions(client)
        client.start_stream(lambda result, error: None)
        client.async_stream_infer("tensorrt_llm", inputs)
        wait_for(lambda: _executions(client) > taken)
        client.stop_stream(cancel_requests=True)
    wait_for(lambda: streaming.record.log.read_text().count("cancelled after") > before)


def _executions(client: triton.InferenceServerClient) -> int:
    return int(client.get_inference_statistics("tensorrt_llm").model_stats[0].execution_count)


def test_server_ends_in_peace_after_clients_have_gone(serve: Serve) -> None:
    """Requests that Triton believed to be in flight would hold it until its time-out, 30 s."""
    endpoint = serve(streaming=True)
    url = f"{endpoint.record.url}/v2/models/ensemble/generate_stream"
    with httpx.stream("POST", url, json=ENDLESS | {"stream": True}, timeout=60) as response:
        next(response.iter_lines())
    wait_for(lambda: "cancelled after" in endpoint.record.log.read_text())
    servers.stop(endpoint.record, endpoint.record.log.with_suffix(".json"))
    log = endpoint.record.log.read_text()
    assert "Exit timeout expired" not in log
    assert "successfully unloaded 'tensorrt_llm'" in log
    assert process_of(endpoint.record) is None
