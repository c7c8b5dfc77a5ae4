"""What each way to ask gives on a repository that streams, and on one that does not: the table of docs/endpoint.md."""

from __future__ import annotations

from typing import Any

import httpx
import numpy as np
import pytest
import tritonclient.grpc as triton  # noqa: TID253
from tritonclient.utils import InferenceServerException  # noqa: TID253

from .conftest import Endpoint
from .test_endpoint import PROMPT
from .test_upstream_clients import ask_stream, of_text

NO_DECOUPLED = "doesn't support models with decoupled transaction policy"
NO_PIECES = "streaming needs a repository with decoupled_mode true"
HIDDEN = {"exclude_input_in_output": np.ones((1, 1), bool)}


def _infer(endpoint: Endpoint) -> httpx.Response:
    tensors = [("text_input", "BYTES", PROMPT), ("max_tokens", "INT32", 16)]
    inputs = [{"name": name, "shape": [1, 1], "datatype": kind, "data": [value]} for name, kind, value in tensors]
    return endpoint.post({"inputs": inputs}, kind="infer")


def _model_infer(endpoint: Endpoint) -> str:
    text = triton.InferInput("text_input", [1, 1], "BYTES").set_data_from_numpy(np.array([[PROMPT]], object))
    length = triton.InferInput("max_tokens", [1, 1], "INT32").set_data_from_numpy(np.array([[16]], np.int32))
    with triton.InferenceServerClient(f"127.0.0.1:{endpoint.record.ports.grpc}") as client:
        return str(client.infer("ensemble", [text, length]).as_numpy("text_output")[0].decode())


def _events(endpoint: Endpoint, **options: Any) -> httpx.Response:
    return endpoint.post({"text_input": PROMPT, "max_tokens": 16} | options, kind="generate_stream")


def test_one_that_streams_refuses_infer_and_answers_all_else(streaming: Endpoint) -> None:
    answer = streaming.text(PROMPT, 16)
    assert _events(streaming).text.count("data:") == 1
    assert _events(streaming, stream=True).text.count("data:") > 1
    refused = _infer(streaming)
    assert (refused.status_code, NO_DECOUPLED in refused.text) == (httpx.codes.NOT_IMPLEMENTED, True)
    with pytest.raises(InferenceServerException, match=NO_DECOUPLED):
        _model_infer(streaming)
    for stream in (False, True):
        results = ask_stream(streaming, "ensemble", of_text([PROMPT], stream=stream, **HIDDEN))
        assert "".join(result.as_numpy("text_output")[0].decode() for result in results) == answer


def test_one_that_does_not_stream_refuses_pieces_and_answers_all_else(plain: Endpoint) -> None:
    answer = plain.text(PROMPT, 16)
    assert _events(plain).text.count("data:") == 1
    refused = _events(plain, stream=True)
    assert (refused.status_code, NO_PIECES in refused.text) == (httpx.codes.BAD_REQUEST, True)
    (output,) = (o for o in _infer(plain).json()["outputs"] if o["name"] == "text_output")
    assert (output["data"], _model_infer(plain)) == ([answer], answer)
    (result,) = ask_stream(plain, "ensemble", of_text([PROMPT], stream=False, **HIDDEN))
    assert result.as_numpy("text_output")[0].decode() == answer
    with pytest.raises(InferenceServerException, match=NO_PIECES):
        ask_stream(plain, "ensemble", of_text([PROMPT], stream=True))
