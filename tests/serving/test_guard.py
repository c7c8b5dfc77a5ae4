"""A real Triton behind a real Envoy: what a client gets, and what becomes of one that hangs up."""

from __future__ import annotations

import json
import socket
import struct
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import httpx
import numpy as np
import pytest
import tritonclient.http as triton  # noqa: TID253
from tritonclient.grpc import service_pb2, service_pb2_grpc  # noqa: TID253

from benchmarks import abuse
from include.live.proxy import Proxy, Upstream, proxy_of
from include.settings import PROJECT
from include.triton import servers
from tests.support.proxied import NAME, serve, settings_of, some_ports
from tests.support.wait import wait_for

from .conftest import Endpoint, Serve
from .test_endpoint import ENDLESS, PROMPT

GENERATE = "/v2/models/ensemble/generate"


@pytest.fixture(scope="module")
def proxy(plain: Endpoint, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    yield from before(plain, tmp_path_factory)


@pytest.fixture(scope="module")
def streamed(streaming: Endpoint, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    yield from before(streaming, tmp_path_factory)


def before(endpoint: Endpoint, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    proxy = proxy_of(settings_of(tmp_path_factory.mktemp("proxy"), some_ports()))
    proxy.ensure_running()
    serve(proxy, Upstream(ports=endpoint.record.ports))
    yield proxy
    proxy.stop()


def test_the_answer_is_the_servers_own(proxy: Proxy, plain: Endpoint) -> None:
    form = {"content-type": "application/x-www-form-urlencoded"}  # as curl says
    body = json.dumps({"text_input": PROMPT, "max_tokens": 20, "bad_words": "", "stop_words": ""})
    answer = httpx.post(f"{proxy.url}{GENERATE}", content=body, headers=form, timeout=60)
    assert answer.json()["text_output"] == plain.text(PROMPT)


def test_tensors_in_binary_form_pass(proxy: Proxy, plain: Endpoint) -> None:
    text = triton.InferInput("text_input", [1, 1], "BYTES")
    text.set_data_from_numpy(np.array([[PROMPT.encode()]], np.object_))
    length = triton.InferInput("max_tokens", [1, 1], "INT32")
    length.set_data_from_numpy(np.array([[20]], np.int32))
    with triton.InferenceServerClient(proxy.url.removeprefix("http://")) as client:
        (answer,) = client.infer("ensemble", [text, length]).as_numpy("text_output").ravel()
    assert answer.decode() == plain.text(PROMPT)


def test_clients_ask_by_the_served_name(proxy: Proxy, plain: Endpoint) -> None:
    text = triton.InferInput("text_input", [1, 1], "BYTES")
    text.set_data_from_numpy(np.array([[PROMPT.encode()]], np.object_))
    length = triton.InferInput("max_tokens", [1, 1], "INT32")
    length.set_data_from_numpy(np.array([[20]], np.int32))
    with triton.InferenceServerClient(proxy.url.removeprefix("http://")) as client:
        about, own = client.get_model_metadata(NAME), client.get_model_metadata("ensemble")
        (answer,) = client.infer(NAME, [text, length]).as_numpy("text_output").ravel()
        assert client.is_model_ready(NAME, "1")
        assert client.get_model_config(NAME)["platform"] == "ensemble"
    assert answer.decode() == plain.text(PROMPT)
    assert (about["name"], own["name"]) == (NAME, "ensemble")
    assert about["parameters"] == {"model": NAME, "release": f"org--{NAME}/1"}
    assert about | {"name": "ensemble"} == own
    ask = {"text_input": PROMPT, "max_tokens": 20}
    for path in (f"/v2/models/{NAME}/generate", f"/v2/models/{NAME}/versions/1/generate"):
        assert httpx.post(f"{proxy.url}{path}", json=ask, timeout=60).json()["text_output"] == plain.text(PROMPT)


def test_a_request_whose_client_has_gone_ends(proxy: Proxy, plain: Endpoint) -> None:
    def cancelled() -> int:
        return Path(plain.record.log).read_text().count("cancelled after")

    def begun() -> int:
        stats = httpx.get(f"{plain.record.url}/v2/models/preprocessing/stats").json()["model_stats"][0]
        return int(stats["inference_count"])

    before, begun_before = cancelled(), begun()
    body = json.dumps(ENDLESS).encode()
    clients = [socket.create_connection(("127.0.0.1", proxy.ports.http)) for _ in range(6)]
    for client in clients:
        head = f"POST {GENERATE} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
        client.sendall(head.encode() + body)
    wait_for(lambda: begun() == begun_before + 6)
    assert cancelled() == before
    for client in clients:
        client.close()
    wait_for(lambda: cancelled() == before + 6)


def test_a_request_of_a_client_that_waits_does_not_end(proxy: Proxy, plain: Endpoint) -> None:
    body = ENDLESS | {"max_tokens": 500}
    assert httpx.post(f"{proxy.url}{GENERATE}", json=body, timeout=120).is_success


@pytest.fixture(scope="module")
def earlier(serve: Serve, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    """A release whose preprocessing is as earlier versions assembled it: it refuses options that it does not know."""
    code = (PROJECT / "tests" / "fixtures" / "earlier" / "preprocessing.txt").read_text()
    yield from before(serve(streaming=False, chat=True, preprocessing=code), tmp_path_factory)


def test_a_release_of_an_earlier_version_answers_behind_the_proxy(earlier: Proxy, plain: Endpoint) -> None:
    body = {"text_input": PROMPT, "max_tokens": 20}
    answer = httpx.post(f"{earlier.url}{GENERATE}", json=body, timeout=60)
    assert answer.json()["text_output"] == plain.text(PROMPT)
    answer = httpx.post(f"{earlier.url}{GENERATE}", json=body | {"beam": 2}, timeout=60)
    assert answer.status_code == 400
    assert answer.json()["error"].endswith("not supported by this engine: beam")


REFUSED = [
    {"text_input": ""},
    {"max_tokens": 10**6},
    {"top_p": 2.0},
    {"repetition_penalty": 0},
    {"beam_width": 2},
    {"bad_words": ["word"] * 65},
    {"top_k": None},
]


@pytest.mark.parametrize("options", REFUSED, ids=[*map(str, range(len(REFUSED)))])
def test_a_stream_that_is_refused_is_400(streamed: Proxy, options: dict[str, object]) -> None:
    body = {"text_input": PROMPT, "max_tokens": 4, "stream": True} | options
    answer = httpx.post(f"{streamed.url}{GENERATE}_stream", json=body, timeout=60)
    assert answer.status_code == 400
    assert "error" in answer.text


def test_an_error_that_ends_its_connection_ends_nobody_elses(proxy: Proxy) -> None:
    stub = [service(proxy) for _ in range(2)]
    slow = stub[0].ModelInfer.future(tensors(ENDLESS["text_input"], 3000), timeout=120)
    for _ in range(3):
        wrong = tensors(PROMPT, 4)
        wrong.model_name = "m" * 900_000
        with pytest.raises(grpc.RpcError):
            stub[1].ModelInfer(wrong, timeout=60)
    assert slow.result().model_name == "ensemble"


def service(proxy: Proxy) -> service_pb2_grpc.GRPCInferenceServiceStub:
    options = [("grpc.use_local_subchannel_pool", 1)]  # a connection of its own
    return service_pb2_grpc.GRPCInferenceServiceStub(grpc.insecure_channel(f"127.0.0.1:{proxy.ports.grpc}", options))


def tensors(text: str, max_tokens: int) -> service_pb2.ModelInferRequest:
    given = {
        "text_input": ("BYTES", struct.pack("<I", len(text)) + text.encode()),
        "max_tokens": ("INT32", struct.pack("<i", max_tokens)),
        "end_id": ("INT32", struct.pack("<i", -1)),
    }
    request = service_pb2.ModelInferRequest(model_name="ensemble")
    for name, (datatype, raw) in given.items():
        request.inputs.add(name=name, datatype=datatype, shape=[1, 1])
        request.raw_input_contents.append(raw)
    return request


@pytest.mark.parametrize(
    ("body", "status"),
    [
        pytest.param("[" * 900_000, 400, id="opened lists"),
        pytest.param('{"a":' + "[" * 400_000 + "]" * 400_000 + "}", 400, id="nested lists"),
        pytest.param(json.dumps({"text_input": "A" * 900_000, "max_tokens": 1}), 400, id="text"),
        pytest.param(json.dumps({"text_input": "A" * 9_000_000, "max_tokens": 1}), 413, id="body"),
    ],
)
def test_hostile_bodies_cost_their_senders_only(proxy: Proxy, body: str, status: int) -> None:
    assert httpx.post(f"{proxy.url}{GENERATE}", content=body, timeout=20).status_code == status
    infer = httpx.post(f"{proxy.url}/v2/models/ensemble/infer", content=body, timeout=20)
    assert infer.status_code >= 400
    assert httpx.get(f"{proxy.url}/v2/health/ready", timeout=5).is_success


FAST = [name for name in abuse.kinds(abuse.Attacker("http://127.0.0.1:1", 1)) if not name.startswith(abuse.SLOW)]
REFUSED_AS = {*map(str, (400, 404, 413, 415)), "UNIMPLEMENTED", "RESOURCE_EXHAUSTED", "UNAVAILABLE"}


@pytest.mark.parametrize("name", FAST)
def test_what_the_benchmark_sends_is_refused_and_costs_nobody_else(proxy: Proxy, plain: Endpoint, name: str) -> None:
    attack = abuse.kinds(abuse.Attacker(proxy.url, proxy.ports.grpc))[name]
    with ThreadPoolExecutor(1) as pool:
        other = pool.submit(httpx.post, f"{proxy.url}{GENERATE}", json=abuse.ASKED, timeout=60)
        assert attack() in REFUSED_AS
        assert other.result().is_success
    assert servers.is_ready(plain.record)


@pytest.mark.parametrize("words", [50, 200])
def test_many_bad_words_are_refused(plain: Endpoint, words: int) -> None:
    given = [f"word{number:03d}abcdef" for number in range(words)]
    answer = plain.post({"text_input": PROMPT, "max_tokens": 4, "bad_words": given})
    assert answer.status_code == 400
    assert "bad_words" in answer.json()["error"]
