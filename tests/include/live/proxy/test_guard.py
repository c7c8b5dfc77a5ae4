"""What a real Envoy lets through to a server, and what it answers itself."""

from __future__ import annotations

import gzip
import json
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
from tests.support.proxied import server, settings_of, some_ports

GOOD = {"text_input": "hello", "max_tokens": 8}
GENERATE = "/v2/models/ensemble/generate"
BODY_BYTES, IN_FLIGHT, HEADER_S, REQUEST_S = 200_000, 4, 1.0, 2.0


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
        proxy.point_to(behind.upstream)
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


WRONG: list[tuple[str, Any]] = [
    *(("max_tokens", value) for value in ("8", 8.5, 8.0, True, None, [8], {"a": 1}, 4294967300, -4294967290)),
    *((name, value) for name in ("end_id", "pad_id", "top_k", "min_tokens") for value in ("1", 1.5, True, 2**31)),
    *(("seed", value) for value in ("1", -1, 1.5, 2**64)),
    *((name, value) for name in ("temperature", "top_p") for value in ("1", -1, True, 1e39)),
    *(
        (name, value)
        for name in ("repetition_penalty", "presence_penalty", "frequency_penalty")
        for value in ("1", 1e39)
    ),
    *((name, value) for name in ("stream", "exclude_input_in_output") for value in (0, 1, "true")),
    *(("text_input", value) for value in (5, True, None, ["hello"], {"a": 1})),
    *((name, value) for name in ("bad_words", "stop_words") for value in (5, True)),
]


@pytest.mark.parametrize(("name", "value"), WRONG, ids=[f"{name}={value!r}" for name, value in WRONG])
@pytest.mark.parametrize("form", ["flat", "nested"])
@pytest.mark.parametrize("kind", ["generate", "generate_stream"])
def test_a_wrong_kind_is_400_and_names_the_field(proxy: Proxy, name: str, value: object, form: str, kind: str) -> None:
    rest = {key: other for key, other in GOOD.items() if key != name}
    body = {**rest, name: value} if form == "flat" else {**rest, "parameters": {name: value}}
    answer = send(proxy, json.dumps(body), f"/v2/models/ensemble/{kind}")
    assert answer.status_code == 400
    assert name in error(answer)


RIGHT = [
    {"temperature": 0.7, "top_p": 0.9, "top_k": 50, "seed": 2**62, "stream": False},
    {"end_id": -1, "bad_words": ["a"], "stop_words": "", "repetition_penalty": 1, "presence_penalty": -0.5},
    {"parameters": {"temperature": 1, "stream": True}},
    {"id": "mine", "top_k": 0, "min_tokens": 2**31 - 1},
]


@pytest.mark.parametrize("options", RIGHT)
def test_what_is_right_passes(proxy: Proxy, options: dict[str, Any]) -> None:
    assert send(proxy, json.dumps(GOOD | options)).text == "a 5"


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


OPEN = ["v2", "v2/health/live", "v2/health/ready", "v2/models/ensemble", "v2/models/ensemble/config"]


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


def test_half_sent_headers_are_closed_after_the_header_timeout(proxy: Proxy) -> None:
    half = [socket.create_connection(("127.0.0.1", proxy.ports.http), timeout=10) for _ in range(500)]
    begun = time.monotonic()
    for client in half:
        client.sendall(f"POST {GENERATE} HTTP/1.1\r\nHost: x\r\n".encode())
    assert httpx.post(f"{proxy.url}{GENERATE}", json=GOOD, timeout=10).text == "a 5"
    for client in half:
        answer = b"".join(iter(lambda: client.recv(65536), b""))  # noqa: B023 - read at once
        assert b"408" in answer
        assert b"HF2TRITON_HEADER_TIMEOUT_S" in answer
        client.close()
    assert time.monotonic() - begun < HEADER_S + 5


def test_a_half_sent_body_is_closed_after_the_request_timeout(proxy: Proxy) -> None:
    with socket.create_connection(("127.0.0.1", proxy.ports.http), timeout=10) as client:
        client.sendall(f"POST {GENERATE} HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{{".encode())
        begun = time.monotonic()
        assert b"408" in client.recv(65536)
    assert time.monotonic() - begun < REQUEST_S + 3


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
    log = next(Path(tmp_path_factory.getbasetemp()).glob("guard*/servers/proxy.log"))
    assert log.stat().st_size < 1_000_000
