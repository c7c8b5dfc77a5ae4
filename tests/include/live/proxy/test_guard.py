"""What a real Envoy lets through to a server, and what it answers itself."""

from __future__ import annotations

import gzip
import json
import re
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest

from include.live.proxy import Proxy, proxy_of
from include.settings import PROJECT
from tests.support.proxied import serve, server, settings_of, some_ports

GOOD = {"text_input": "hello", "max_tokens": 8}
GENERATE = "/v2/models/ensemble/generate"
BODY_BYTES, IN_FLIGHT, HEADER_S, REQUEST_S = 210_000, 4, 1.0, 2.0


@pytest.fixture(scope="module")
def proxy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    """An Envoy with small limits, and a dummy of Triton behind it."""
    limits = {
        "max_body_bytes": BODY_BYTES,
        "max_requests_in_flight": IN_FLIGHT,
        "header_timeout_s": HEADER_S,
        "request_timeout_s": REQUEST_S,
    }
    settings = settings_of(tmp_path_factory.mktemp("guard"), some_ports()).model_copy(update=limits)
    proxy = proxy_of(settings)
    proxy.ensure_running()
    with server("a") as behind:
        serve(proxy, behind.upstream)
        yield proxy
    proxy.stop()


@pytest.fixture(autouse=True)
def survives(proxy: Proxy) -> Iterator[None]:
    """Whatever a test sends: another client is served after it."""
    yield
    assert httpx.get(f"{proxy.url}/v2/health/ready", timeout=5).text == "a"


def send(proxy: Proxy, content: str | bytes, path: str = GENERATE, **headers: str) -> httpx.Response:
    return httpx.post(f"{proxy.url}{path}", content=content, headers=headers, timeout=20)


def error(response: httpx.Response) -> str:
    assert response.headers["content-type"] == "application/json"
    return str(response.json()["error"])


def test_curls_own_content_type_is_taken(proxy: Proxy) -> None:
    answer = send(proxy, json.dumps(GOOD), **{"content-type": "application/x-www-form-urlencoded"})
    assert (answer.status_code, answer.text) == (200, "a 5")


@pytest.mark.parametrize("path", [GENERATE, f"{GENERATE}_stream", "/v2/models/ensemble/infer", "/v2/health/ready", "/"])
@pytest.mark.parametrize("chunked", [False, True], ids=["whole", "chunked"])
def test_a_long_body_is_413_and_names_the_limit(proxy: Proxy, path: str, chunked: bool) -> None:
    content = json.dumps({"text_input": "A" * 9_000_000, "max_tokens": 1}).encode()
    pieces = (content[at : at + 65536] for at in range(0, len(content), 65536))
    try:
        answer = httpx.post(f"{proxy.url}{path}", content=pieces if chunked else content, timeout=20)
    except httpx.WriteError:  # the answer came, and the connection was closed, before all was sent
        return
    assert answer.status_code == 413
    assert f"{BODY_BYTES} bytes (HF2TRITON_MAX_BODY_BYTES)" in error(answer)


def test_a_body_within_the_limit_passes(proxy: Proxy) -> None:
    text = "A" * (BODY_BYTES - 1000)
    assert send(proxy, json.dumps(GOOD | {"text_input": text})).text == f"a {len(text)}"


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "identity"])
@pytest.mark.parametrize("path", [GENERATE, "/v2/models/ensemble/infer"])
def test_a_compressed_body_is_415(proxy: Proxy, path: str, encoding: str) -> None:
    answer = send(proxy, gzip.compress(b"[" * 400_000), path, **{"content-encoding": encoding})
    assert answer.status_code == 415
    assert "content-encoding" in error(answer)


@pytest.mark.parametrize(
    "body",
    ["[" * 150_000, '{"a":' + "[" * 90_000 + "]" * 90_000 + "}", '{"a":' * 30_000 + "1" + "}" * 30_000, "nothing", ""],
    ids=["opened", "nested lists", "nested objects", "no JSON", "empty"],
)
@pytest.mark.parametrize("kind", ["generate", "generate_stream"])
def test_a_body_that_cannot_be_read_is_400(proxy: Proxy, body: str, kind: str) -> None:
    answer = send(proxy, body, f"/v2/models/ensemble/{kind}")
    assert answer.status_code == 400
    assert error(answer)


WHOLE = ("1", 1.5, 1.0, True, None, {"a": 1}, [], [1, 2], [2**31], [None], 2**31, 4294967300, -(2**31) - 1)
REAL = ("1", True, None, {"a": 1}, [], [1, 2], ["1"], 1e39)
WRONG: list[tuple[str, Any]] = [
    *((name, value) for name in ("max_tokens", "end_id", "pad_id", "top_k", "min_tokens") for value in WHOLE),
    *((name, value) for name in ("beam_width", "num_return_sequences") for value in WHOLE),
    *((name, value) for name in ("seed", "random_seed", "lora_task_id") for value in ("1", -1, 1.5, 2**64, None, [])),
    *((name, value) for name in ("length_penalty", "len_penalty") for value in REAL),
    *((name, value) for name in ("return_log_probs", "use_raw_prompt", "stop") for value in (0, "false", None, {})),
    *((name, value) for name in ("decoder_text_input", "guided_decoding_guide") for value in (5, None, ["a", "b"])),
    *(("embedding_bias_weights", value) for value in ("1", None, [None], {})),
    *((name, value) for name in ("temperature", "top_p") for value in (*REAL, -1, [-1])),
    *((name, value) for name in ("repetition_penalty", "presence_penalty", "frequency_penalty") for value in REAL),
    *((name, value) for name in ("stream", "exclude_input_in_output") for value in (0, "true", None, [], [1], {})),
    *(("text_input", value) for value in (5, True, None, [], ["a", "b"], [1], {"a": 1})),
    *((name, value) for name in ("bad_words", "stop_words") for value in (5, None, {}, [1], ["a", None], [["a"]])),
    *(("id", value) for value in (5, None, ["a"])),
]


@pytest.mark.parametrize(("name", "value"), WRONG, ids=[f"{name}={value!r}" for name, value in WRONG])
def test_a_wrong_kind_is_400_and_names_the_field(proxy: Proxy, name: str, value: object) -> None:
    rest = {key: other for key, other in GOOD.items() if key != name}
    with httpx.Client(base_url=proxy.url, timeout=20) as client:
        for body in ({**rest, name: value}, {**rest, "parameters": {name: value}}):
            for kind in ("generate", "generate_stream"):
                answer = client.post(f"/v2/models/ensemble/{kind}", json=body)
                assert answer.status_code == 400
                assert name in error(answer)


@pytest.mark.parametrize("model", ["ensemble", "tensorrt_llm"])
def test_no_input_of_a_model_may_be_null(proxy: Proxy, model: str) -> None:
    config = (PROJECT / "include" / "targets" / "openvino" / "repository" / model / "config.pbtxt").read_text()
    inputs = re.findall(r'name: "(\w+)"', config.partition("input [")[2].partition("output [")[0])
    assert len(inputs) > 30
    for name in inputs:
        answer = send(proxy, json.dumps(GOOD | {name: None}), f"/v2/models/{model}/generate")
        assert (answer.status_code, error(answer).split()[0]) == (400, name)


def test_the_first_of_two_is_checked_as_well_as_the_last(proxy: Proxy) -> None:
    answer = send(proxy, '{"text_input": "hello", "max_tokens": 4294967300, "max_tokens": 8}')
    assert (answer.status_code, "max_tokens" in error(answer)) == (400, True)


def test_a_name_that_is_written_otherwise_is_refused(proxy: Proxy) -> None:
    answer = send(proxy, '{"text_input": "hello", "max_tokens": 8, "top\\u005fk": null}')
    assert (answer.status_code, "escapes" in error(answer)) == (400, True)


def test_pieces_are_asked_of_generate_stream(proxy: Proxy) -> None:
    assert "generate_stream" in error(send(proxy, json.dumps(GOOD | {"stream": True})))


@pytest.mark.parametrize("path", [GENERATE, "/v2/models/ensemble/infer"])
@pytest.mark.parametrize(
    "body",
    ["{" + ",".join(f'"{number}":1' for number in range(15_000)) + "}", '{"a":[' + "1," * 99_999 + "1]}"],
    ids=["names", "values"],
)
def test_what_would_take_the_server_long_to_read_is_400(proxy: Proxy, body: str, path: str) -> None:
    assert "more than 1000 names or 100000 values" in error(send(proxy, body, path))


INFER = "/v2/models/ensemble/infer"
WRONG_TENSORS = [
    ("max_tokens", "INT32", 4294967300),
    ("max_tokens", "INT32", "8"),
    ("max_tokens", "INT32", 8.5),
    ("max_tokens", "INT32", None),
    ("seed", "UINT64", -1),
    ("top_p", "FP32", "1"),
    ("stream", "BOOL", 1),
    ("text_input", "BYTES", 5),
    ("max_tokens", "INT33", 5),
]


@pytest.mark.parametrize(("name", "datatype", "value"), WRONG_TENSORS)
@pytest.mark.parametrize("nested", [False, True], ids=["flat", "nested"])
def test_a_wrong_tensor_is_400_and_names_the_input(
    proxy: Proxy, name: str, datatype: str, value: object, nested: bool
) -> None:
    answer = infer(proxy, name=name, datatype=datatype, shape=[1, 1], data=[[value]] if nested else [value])
    assert answer.status_code == 400
    assert name in error(answer)


@pytest.mark.parametrize("shape", [[-1], [2**40, 2**40], "1", None])
def test_a_wrong_shape_is_400_and_names_the_input(proxy: Proxy, shape: object) -> None:
    answer = infer(proxy, name="max_tokens", datatype="INT32", shape=shape, data=[1])
    assert (answer.status_code, error(answer).split(" must")[0]) == (400, "shape of max_tokens")


def test_tensors_pass_also_with_bytes_behind_them(proxy: Proxy) -> None:
    about = {"name": "max_tokens", "datatype": "INT32", "shape": [1, 1], "parameters": {"binary_data_size": 4}}
    header = json.dumps({"inputs": [about]}).encode()
    for body, length in ((header + b"\x08\0\0\0", str(len(header))), (json.dumps({"inputs": []}).encode(), "")):
        headers = {"inference-header-content-length": length} if length else {}
        with httpx.stream("POST", f"{proxy.url}{INFER}", content=body, headers=headers) as answer:
            assert answer.status_code == 200


def infer(proxy: Proxy, **tensor: object) -> httpx.Response:
    return send(proxy, json.dumps({"id": "1", "inputs": [tensor]}), INFER)


RIGHT = [
    {"temperature": 0.7, "top_p": 0.9, "top_k": 50, "seed": 2**62, "stream": False},
    {"end_id": -1, "bad_words": ["a"], "stop_words": "", "repetition_penalty": 1, "presence_penalty": -0.5},
    {"parameters": {"temperature": 1, "stream": False}, "bad_words": [], "top_k": [1], "max_tokens": [8]},
    {"unknown": None, "text_input": 'say "top_k": null, {"max_tokens": "8"} \\" [[['},
    {"id": "mine", "top_k": 0, "min_tokens": 2**31 - 1},
    {"beam_width": 1, "len_penalty": 1, "length_penalty": 1.0, "return_log_probs": False, "random_seed": 0},
    {"num_return_sequences": 1, "embedding_bias_weights": [0.5], "embedding_bias_words": ["a"], "lora_task_id": 2**62},
    {"use_raw_prompt": True, "guided_decoding_guide_type": "json"},
]


@pytest.mark.parametrize("options", RIGHT)
def test_what_is_right_passes(proxy: Proxy, options: dict[str, Any]) -> None:
    body = GOOD | options
    assert send(proxy, json.dumps(body)).text == f"a {len(body['text_input'])}"


@pytest.mark.parametrize("name", ["text_input", "max_tokens"])
def test_what_is_missing_is_named(proxy: Proxy, name: str) -> None:
    answer = send(proxy, json.dumps({key: value for key, value in GOOD.items() if key != name}))
    assert answer.status_code == 400
    assert name in error(answer)


def test_parameters_must_be_an_object(proxy: Proxy) -> None:
    assert error(send(proxy, json.dumps(GOOD | {"parameters": 5}))) == "parameters must be an object"


CLOSED = [
    "v2/systemsharedmemory/status",
    "v2/systemsharedmemory/region/x/register",
    "v2/cudasharedmemory/status",
    "v2/logging",
    "v2/trace/setting",
    "v2/repository/index",
    "v2/repository/models/ensemble/load",
    "v2/repository/models/ensemble/unload",
    "v2/models/ensemble/trace/setting",
    "v2/models/preprocessing/infer",
    "v2/models/postprocessing/generate",
    "v2/models/ensemble/../../logging",
    "v2/models/ensemble/%2e%2e/%2e%2e/logging",
    "v2//logging",
    "metrics",
    "",
]


@pytest.mark.parametrize("path", CLOSED)
@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "DELETE"])
def test_what_users_do_not_need_is_404(proxy: Proxy, method: str, path: str) -> None:
    connection = HTTPConnection("127.0.0.1", proxy.ports.http, timeout=10)
    connection.request(method, f"/{path}")  # as it stands: httpx would resolve the dots
    assert connection.getresponse().status == 404
    connection.close()


def test_an_escaped_slash_is_400(proxy: Proxy) -> None:
    assert httpx.get(f"{proxy.url}/v2%2flogging").status_code == 400


OPEN = ["v2", "v2/health/live", "v2/health/ready", "v2/models/preprocessing", "v2/models/ensemble/config"]


@pytest.mark.parametrize("path", [*OPEN, "v2/models/tensorrt_llm/ready", "v2/models/ensemble/versions/1/ready"])
def test_what_users_need_is_there(proxy: Proxy, path: str) -> None:
    assert httpx.get(f"{proxy.url}/{path}").text == "a"


@pytest.mark.parametrize(
    "method",
    ["SystemSharedMemoryRegister", "LogSettings", "TraceSetting", "RepositoryIndex", "RepositoryModelUnload", "Other"],
)
def test_a_grpc_method_that_users_do_not_need_is_unimplemented(proxy: Proxy, method: str) -> None:
    with grpc.insecure_channel(f"127.0.0.1:{proxy.ports.grpc}") as channel, pytest.raises(grpc.RpcError) as caught:
        channel.unary_unary(f"/inference.GRPCInferenceService/{method}")(b"", timeout=10)
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


def test_a_long_grpc_message_is_refused(proxy: Proxy) -> None:
    with grpc.insecure_channel(f"127.0.0.1:{proxy.ports.grpc}") as channel, pytest.raises(grpc.RpcError) as caught:
        channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")(b"x" * 9_000_000, timeout=10)
    assert "HF2TRITON_MAX_BODY_BYTES" in str(caught.value.details())
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


@pytest.mark.parametrize("messages", [[9_000_000], [BODY_BYTES] * 20], ids=["one long message", "many together"])
def test_a_grpc_stream_is_bounded(proxy: Proxy, messages: list[int]) -> None:
    sent = (b"x" * length for length in messages)
    with grpc.insecure_channel(f"127.0.0.1:{proxy.ports.grpc}") as channel, pytest.raises(grpc.RpcError) as caught:
        list(channel.stream_stream("/inference.GRPCInferenceService/ModelStreamInfer")(sent, timeout=10))
    assert f"{16 * BODY_BYTES}" in str(caught.value.details())


def test_half_sent_headers_are_closed_after_the_header_timeout(proxy: Proxy) -> None:
    half = [socket.create_connection(("127.0.0.1", proxy.ports.http), timeout=10) for _ in range(500)]
    for client in half:
        client.sendall(f"POST {GENERATE} HTTP/1.1\r\nHost: x\r\n".encode())
    assert httpx.post(f"{proxy.url}{GENERATE}", json=GOOD, timeout=10).text == "a 5"
    for client in half:
        answer = b"".join(iter(lambda: client.recv(65536), b""))  # noqa: B023 - read at once
        assert b"408" in answer
        assert b"HF2TRITON_HEADER_TIMEOUT_S" in answer
        client.close()


def test_a_half_sent_body_is_closed_after_the_request_timeout(proxy: Proxy) -> None:
    with socket.create_connection(("127.0.0.1", proxy.ports.http), timeout=10) as client:
        client.sendall(f"POST {GENERATE} HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{{".encode())
        assert b"408" in client.recv(65536)


def test_beyond_the_requests_in_flight_it_is_429_and_health_is_answered(proxy: Proxy) -> None:
    with ThreadPoolExecutor(12) as pool:
        asked = [pool.submit(send, proxy, json.dumps(GOOD)) for _ in range(12)]
        time.sleep(0.3)
        assert httpx.get(f"{proxy.url}/v2/health/ready", timeout=5).is_success
        answers = [one.result() for one in asked]
    refused = [one for one in answers if one.status_code != 200]
    assert {one.status_code for one in refused} == {429}
    assert "HF2TRITON_MAX_REQUESTS_IN_FLIGHT" in error(refused[0])
    assert len(answers) - len(refused) >= IN_FLIGHT


def test_beyond_it_grpc_is_unavailable(proxy: Proxy) -> None:
    def ask(_: int) -> grpc.StatusCode:
        with grpc.insecure_channel(f"127.0.0.1:{proxy.ports.grpc}") as channel:
            try:
                channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")(b"", timeout=10)
            except grpc.RpcError as error:
                return error.code()
            return grpc.StatusCode.OK

    with ThreadPoolExecutor(12) as pool:
        codes = list(pool.map(ask, range(12)))
    assert set(codes) == {grpc.StatusCode.OK, grpc.StatusCode.UNAVAILABLE}


def test_the_log_of_a_refused_request_is_short(proxy: Proxy, tmp_path_factory: pytest.TempPathFactory) -> None:
    log = next(Path(tmp_path_factory.getbasetemp()).glob("guard*-logs/proxy.log"))
    assert log.stat().st_size < 1_000_000
