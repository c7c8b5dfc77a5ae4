"""Requests as upstream's clients send them (TensorRT-LLM, ``triton_backend/inflight_batcher_llm/client``).

``end_to_end_grpc_client.py`` asks the ensemble, ``inflight_batcher_llm_client.py`` the engine, with token ids. Both
send fields that this engine has nothing for, at the values that ask for nothing.
"""

from __future__ import annotations

import queue
from collections.abc import Mapping, Sequence
from typing import Any

import httpx
import numpy as np
import pytest
import tritonclient.grpc as triton  # noqa: TID253
from tritonclient.utils import InferenceServerException, np_to_triton_dtype  # noqa: TID253

from .conftest import BOS, Endpoint, Serve
from .test_endpoint import PROMPT

Tensors = Mapping[str, np.ndarray]
RENDERED = f"<|im_start|>user\n{PROMPT}<|im_end|>\n<|im_start|>assistant\n"
NEUTRAL: dict[str, Any] = {
    "beam_width": 1,
    "num_return_sequences": 1,
    "len_penalty": 1.0,
    "length_penalty": 1.0,
    "early_stopping": False,
    "beam_search_diversity_rate": 0.0,
    "return_log_probs": False,
    "return_context_logits": False,
    "return_generation_logits": False,
    "return_perf_metrics": False,
    "decoder_text_input": "",
    "embedding_bias_words": [""],
    "embedding_bias_weights": [0.0],
    "prompt_vocab_size": 0,
    "prompt_table_extra_id": 0,
    "lora_task_id": 0,
    "guided_decoding_guide_type": "",
    "guided_decoding_guide": "",
}
ASKING = [
    ("beam_width", 2, "beam search"),
    ("num_return_sequences", 2, "several answers"),
    ("len_penalty", 0.5, "beam search"),
    ("length_penalty", 2.0, "beam search"),
    ("early_stopping", True, "beam search"),
    ("return_log_probs", True, "log probabilities"),
    ("return_context_logits", True, "logits"),
    ("return_generation_logits", True, "logits"),
    ("return_perf_metrics", True, "metrics"),
    ("decoder_text_input", "a", "encoder-decoder"),
    ("embedding_bias_words", ["a"], "biased words"),
    ("embedding_bias_weights", [0.0, 1.0], "biased words"),
    ("prompt_vocab_size", 8, "prompt tuning"),
    ("lora_task_id", 1, "LoRA"),
    ("guided_decoding_guide_type", "json", "guided decoding"),
]


def ask_stream(endpoint: Endpoint, model: str, inputs: Tensors, *outputs: str) -> list[Any]:
    """The responses to one request of a gRPC stream; raises the error of a response."""
    tensors = []
    for name, value in inputs.items():
        tensor = triton.InferInput(name, value.shape, np_to_triton_dtype(value.dtype))
        tensor.set_data_from_numpy(value)
        tensors.append(tensor)
    asked = [triton.InferRequestedOutput(name) for name in outputs] or None
    answers: queue.SimpleQueue[tuple[Any, Any]] = queue.SimpleQueue()
    with triton.InferenceServerClient(f"127.0.0.1:{endpoint.record.ports.grpc}") as client:
        client.start_stream(lambda result, error: answers.put((result, error)))
        client.async_stream_infer(model, tensors, outputs=asked)
        client.stop_stream()
    got = [answers.get_nowait() for _ in range(answers.qsize())]
    for _, error in got:
        if error:
            raise error
    return [result for result, _ in got]


def of_text(prompts: Sequence[str], *, stream: bool, **changed: np.ndarray) -> Tensors:
    """The inputs of ``end_to_end_grpc_client.py``, with its defaults."""
    rows = len(prompts)
    return {
        "text_input": np.array([[prompt] for prompt in prompts], object),
        "max_tokens": np.full((rows, 1), 16, np.int32),
        "stream": np.full((rows, 1), stream),
        "beam_width": np.ones((rows, 1), np.int32),
        "temperature": np.ones((rows, 1), np.float32),
        "num_return_sequences": np.ones((rows, 1), np.int32),
        "exclude_input_in_output": np.zeros((rows, 1), bool),
        **changed,
    }


def of_ids(ids: Sequence[int], *, stream: bool) -> Tensors:
    """The inputs of ``inflight_batcher_llm_client.py``, with its defaults."""
    return {
        "input_ids": np.array([ids], np.int32),
        "input_lengths": np.array([[len(ids)]], np.int32),
        "request_output_len": np.array([[16]], np.int32),
        "beam_width": np.array([[1]], np.int32),
        "temperature": np.array([[1.0]], np.float32),
        "streaming": np.array([[stream]]),
        "end_id": np.array([[-1]], np.int32),
        "pad_id": np.array([[50256]], np.int32),
        "runtime_top_k": np.array([[1]], np.int32),
        "runtime_top_p": np.array([[0.0]], np.float32),
    }


@pytest.mark.parametrize("stream", [False, True], ids=["at once", "in pieces"])
def test_text_comes_in_the_shape_that_upstreams_client_reads(streaming: Endpoint, stream: bool) -> None:
    """It takes ``text_output[0]`` for bytes, and expects the prompt before the answer unless that is streamed."""
    results = ask_stream(streaming, "ensemble", of_text([PROMPT], stream=stream), "text_output")
    pieces = [result.as_numpy("text_output")[0].decode() for result in results]
    assert "".join(pieces) == ("" if stream else PROMPT) + streaming.text(PROMPT, 16)
    assert (len(pieces) > 1) is stream


@pytest.mark.parametrize("stream", [False, True], ids=["at once", "in pieces"])
def test_each_of_several_prompts_has_responses_of_its_own(streaming: Endpoint, stream: bool) -> None:
    prompts = [PROMPT, "The quick brown"]
    hidden = np.ones((2, 1), bool)
    inputs = of_text(prompts, stream=stream, exclude_input_in_output=hidden)
    texts = ["", ""]
    for result in ask_stream(streaming, "ensemble", inputs, "text_output", "batch_index"):
        texts[result.as_numpy("batch_index")[0][0]] += result.as_numpy("text_output")[0].decode()
    assert texts == [streaming.text(prompt, 16) for prompt in prompts]


def test_a_repository_that_does_not_stream_answers_upstreams_clients_too(plain: Endpoint) -> None:
    (result,) = ask_stream(plain, "ensemble", of_text([PROMPT], stream=False), "text_output")
    assert result.as_numpy("text_output")[0].decode().endswith(plain.text(PROMPT, 16))
    (answer,) = ask_stream(plain, "tensorrt_llm", of_ids([5, 6, 7], stream=False))
    assert answer.as_numpy("output_ids").shape == (1, 1, 16)


def test_the_engine_answers_with_token_ids(streaming: Endpoint) -> None:
    (whole,) = ask_stream(streaming, "tensorrt_llm", of_ids([5, 6, 7], stream=False))
    pieces = ask_stream(streaming, "tensorrt_llm", of_ids([5, 6, 7], stream=True))
    streamed = [token for piece in pieces for token in piece.as_numpy("output_ids")[0][0]]
    assert streamed == list(whole.as_numpy("output_ids")[0][0])
    assert sum(piece.as_numpy("sequence_length")[0][0] for piece in pieces) == len(streamed) == 16


@pytest.mark.parametrize("form", ["flat", "nested"])
def test_neutral_values_change_nothing(plain: Endpoint, form: str) -> None:
    options = NEUTRAL if form == "flat" else {"parameters": NEUTRAL}
    assert plain.text(PROMPT, **options) == plain.text(PROMPT)


@pytest.mark.parametrize(("name", "value", "asked"), ASKING, ids=[f"{name}={value}" for name, value, _ in ASKING])
def test_a_value_that_asks_for_something_is_refused_by_name(
    plain: Endpoint, name: str, value: object, asked: str
) -> None:
    response = plain.post({"text_input": PROMPT, "max_tokens": 5, name: value})
    assert response.status_code == httpx.codes.BAD_REQUEST
    assert f"{name} must be" in response.json()["error"]
    assert asked in response.json()["error"]


@pytest.mark.parametrize("name", ["prompt_embedding_table", "lora_weights", "lora_config"])
def test_what_has_no_neutral_value_is_refused_by_name(plain: Endpoint, name: str) -> None:
    tensor = {"name": name, "shape": [1, 1, 3], "datatype": "FP16", "data": [1, 2, 3]}
    prompt = {"name": "text_input", "shape": [1, 1], "datatype": "BYTES", "data": [PROMPT]}
    length = {"name": "max_tokens", "shape": [1, 1], "datatype": "INT32", "data": [5]}
    asked = plain.post({"inputs": [prompt, length, tensor]}, kind="infer")
    generated = plain.post({"text_input": PROMPT, "max_tokens": 5, name: [1, 2, 3]})
    for response in (asked, generated):
        assert response.status_code == httpx.codes.BAD_REQUEST, response.text
        assert name in response.json()["error"]


def test_the_refusal_over_grpc_names_the_field(streaming: Endpoint) -> None:
    with pytest.raises(InferenceServerException, match="beam_width must be 1"):
        ask_stream(streaming, "ensemble", of_text([PROMPT], stream=True, beam_width=np.array([[2]], np.int32)))


def test_a_seed_has_two_names(plain: Endpoint) -> None:
    drawn = {"top_k": 50, "temperature": 2.0}
    assert plain.text(PROMPT, random_seed=3, **drawn) == plain.text(PROMPT, seed=3, **drawn)
    assert plain.text(PROMPT, random_seed=3, seed=3, **drawn) == plain.text(PROMPT, seed=3, **drawn)
    response = plain.post({"text_input": PROMPT, "max_tokens": 5, "seed": 3, "random_seed": 4})
    assert response.status_code == httpx.codes.BAD_REQUEST
    assert "seed is 3 and random_seed is 4" in response.json()["error"]


def test_a_client_may_render_the_template_itself(plain: Endpoint) -> None:
    assert plain.text(RENDERED, use_raw_prompt=True) == plain.text(PROMPT) != plain.text(RENDERED)
    assert plain.text(PROMPT, use_raw_prompt=False) == plain.text(PROMPT)


def test_a_raw_prompt_of_a_batch_is_raw_alone(plain: Endpoint) -> None:
    raw = np.array([[True], [False]])
    inputs = of_text([RENDERED, PROMPT], stream=False, exclude_input_in_output=np.ones((2, 1), bool))
    (result,) = ask_stream(plain, "ensemble", {**inputs, "use_raw_prompt": raw}, "text_output")
    assert {text.decode() for text in result.as_numpy("text_output")} == {plain.text(PROMPT, 16)}


@pytest.fixture(scope="module")
def with_bos(serve: Serve) -> Endpoint:
    """A server whose tokenizer starts every text with a special token, as Llama's do."""
    return serve(streaming=False, bos=True)


def test_a_raw_prompt_gets_no_second_bos(with_bos: Endpoint) -> None:
    def tokens(text: str, **options: Any) -> int:
        body = {"text_input": text, "max_tokens": 1, "return_num_input_tokens": True}
        return int(with_bos.post(body | options).json()["num_input_tokens"])

    assert tokens("hello") == tokens(f"{BOS}hello", use_raw_prompt=True) == tokens("hello", use_raw_prompt=True) + 1
    assert tokens(f"{BOS}hello") == tokens("hello") + 1
