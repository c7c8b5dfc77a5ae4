"""Many models at one address: who answers a request, by the name in its path or its header, with a real Envoy."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import grpc
import httpx
import pytest

from include.errors import ToolError
from include.live.proxy import Proxy, Served, Upstream, config, proxy_of
from include.live.proxy.config import Files
from tests.support.proxied import LIMIT_S, load, serve, server, settings_of, some_ports

STEP_S = 0.01
GOOD = {"text_input": "hello", "max_tokens": 8}
INFER = "/inference.GRPCInferenceService/ModelInfer"
NAMES = {"one": "one", "uno": "one", "two-0.5b": "two", "deux": "two"}
"""What a model is called, and who answers to it."""


@pytest.fixture(scope="module")
def one() -> Iterator[Upstream]:
    with server("one", STEP_S) as running:
        yield running.upstream


@pytest.fixture(scope="module")
def two() -> Iterator[Upstream]:
    with server("two", STEP_S) as running:
        yield running.upstream


@pytest.fixture(scope="module")
def three() -> Iterator[Upstream]:
    with server("three", STEP_S) as running:
        yield running.upstream


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("names")


@pytest.fixture(scope="module")
def running(root: Path) -> Iterator[Proxy]:
    proxy = proxy_of(settings_of(root, some_ports()))
    proxy.ensure_running()
    yield proxy
    proxy.stop()


@pytest.fixture
def proxy(running: Proxy, one: Upstream, two: Upstream) -> Proxy:
    """A proxy in front of two models; the first is the default."""
    wanted = {
        "one": Served(upstream=one, release="org--one/7", aliases=("uno",)),
        "two-0.5b": Served(upstream=two, release="org--two-0.5b/2", aliases=("deux",)),
    }
    for name in running.served() | wanted:
        if running.served().get(name) != wanted.get(name):
            running.point_to(name, wanted.get(name))
    if running.default() != "one":
        running.set_default("one")
    return running


def get(proxy: Proxy, path: str, name: str | None = None) -> httpx.Response:
    return httpx.get(f"{proxy.url}/{path}", headers={"X-Gateway-Model-Name": name} if name is not None else {})


def post(proxy: Proxy, path: str, name: str | None = None, **body: object) -> httpx.Response:
    headers = {"X-Gateway-Model-Name": name} if name is not None else {}
    return httpx.post(f"{proxy.url}/{path}", json=body or GOOD, headers=headers, timeout=LIMIT_S)


def metrics(proxy: Proxy, path: str) -> httpx.Response:
    return httpx.get(f"http://127.0.0.1:{proxy.ports.metrics}/{path}")


def call(proxy: Proxy, *name: str, method: str = INFER) -> tuple[str, dict[str, str]]:
    """The answer to a gRPC call with this name in its header, and the metadata that came with it."""
    metadata = [("x-gateway-model-name", one) for one in name]
    with grpc.insecure_channel(f"127.0.0.1:{proxy.ports.grpc}") as channel:
        answer, said = channel.unary_unary(method).with_call(b"", timeout=LIMIT_S, metadata=metadata)
        return answer.decode(), dict(said.initial_metadata())


def refusal(proxy: Proxy, *name: str, method: str = INFER) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.RpcError) as caught:
        call(proxy, *name, method=method)
    return caught.value.code(), str(caught.value.details())


def error(response: httpx.Response) -> str:
    return str(response.json()["error"])


@pytest.mark.parametrize(("name", "by"), NAMES.items())
@pytest.mark.parametrize("version", ["", "/versions/1"])
def test_a_name_in_the_path_chooses_the_model(proxy: Proxy, name: str, by: str, version: str) -> None:
    model = f"v2/models/{name}{version}"
    assert post(proxy, f"{model}/generate").text == f"{by} 5"
    assert get(proxy, f"{model}/ready").text == get(proxy, f"{model}/config?x=1").text == by


def test_pieces_and_tensors_are_asked_by_name(proxy: Proxy) -> None:
    assert post(proxy, "v2/models/deux/generate_stream").text.startswith("data: two 0")
    with httpx.stream("POST", f"{proxy.url}/v2/models/deux/infer", json={"inputs": []}) as answer:
        assert next(answer.iter_lines()) == "data: two"


@pytest.mark.parametrize(("name", "by"), NAMES.items())
def test_a_header_chooses_the_model_that_has_the_servers_own_name(proxy: Proxy, name: str, by: str) -> None:
    assert get(proxy, "v2/health/ready", name).text == by
    assert get(proxy, "v2/models/tensorrt_llm/ready", name).text == by
    assert [post(proxy, f"v2/models/{own}/generate", name).text for own in ("ensemble", "tensorrt_llm_bls")] == [
        f"{by} 5"
    ] * 2
    assert call(proxy, name)[0] == by


def test_without_a_name_the_default_answers(proxy: Proxy) -> None:
    for name, by in (("one", "one"), ("two-0.5b", "two")):
        proxy.set_default(name)
        assert get(proxy, "v2/health/ready").text == by
        assert post(proxy, "v2/models/ensemble/generate").text == f"{by} 5"
        assert (call(proxy)[0], metrics(proxy, "metrics").text) == (by, by)


@pytest.mark.parametrize("gone", [None, "none-of-them"], ids=["no default", "one that is not served"])
def test_without_a_default_only_names_are_answered(proxy: Proxy, gone: str | None) -> None:
    proxy.set_default(gone)
    bare = [get(proxy, "v2/health/ready"), post(proxy, "v2/models/ensemble/generate"), get(proxy, "v2/models/ensemble")]
    assert {answer.status_code for answer in bare} == {503}
    assert "x-gateway-model-name" in error(bare[0])
    assert metrics(proxy, "metrics").status_code == 503
    assert refusal(proxy)[0] is grpc.StatusCode.UNAVAILABLE
    assert (get(proxy, "v2/health/ready", "deux").text, call(proxy, "uno")[0]) == ("two", "one")


UNKNOWN = ["three", "on", "ones", "one.", "ONE", "two-0x5b", "%2a", "."]


@pytest.mark.parametrize("name", UNKNOWN)
def test_an_unknown_name_is_404_and_says_which_are_served(proxy: Proxy, name: str) -> None:
    answers = [
        get(proxy, "v2/health/ready", name),
        get(proxy, "v2/models/ensemble", name),
        post(proxy, "v2/models/ensemble/generate", name),
    ]
    if name != ".":
        answers += [get(proxy, f"v2/models/{name}"), get(proxy, f"v2/models/{name}/ready")]
        answers += [post(proxy, f"v2/models/{name}/generate")]
    for answer in answers:
        assert (answer.status_code, error(answer)) == (
            404,
            "no model is served under that name; served are: one, uno, two-0.5b, deux",
        )
    assert refusal(proxy, name) == (
        grpc.StatusCode.NOT_FOUND,
        "no model is served under that name; served are: one, uno, two-0.5b, deux",
    )


@pytest.mark.parametrize("name", ["", "one, deux"], ids=["empty", "two at once"])
def test_a_header_that_is_no_name_is_not_found(proxy: Proxy, name: str) -> None:
    assert get(proxy, "v2/health/ready", name).status_code == 404
    assert refusal(proxy, name)[0] is grpc.StatusCode.NOT_FOUND


def test_an_unknown_name_has_no_metrics(proxy: Proxy) -> None:
    assert [metrics(proxy, f"metrics/{name}").text for name in NAMES] == list(NAMES.values())
    answer = metrics(proxy, "metrics/three")
    assert (answer.status_code, "served are: one" in error(answer)) == (404, True)


def test_an_answer_says_which_release_gave_it(proxy: Proxy) -> None:
    for name, said in {"deux": ("org--two-0.5b/2", "two-0.5b"), "one": ("org--one/7", "one")}.items():
        headers = [
            post(proxy, f"v2/models/{name}/generate").headers,
            post(proxy, f"v2/models/{name}/generate_stream").headers,
            get(proxy, f"v2/models/{name}/ready").headers,
            get(proxy, "v2/health/ready", name).headers,
            call(proxy, name)[1],
        ]
        assert {(one["x-hf2triton-release"], one["x-hf2triton-model"]) for one in headers} == {said}
    assert get(proxy, "v2/health/ready").headers["x-hf2triton-release"] == "org--one/7"


def test_the_metadata_says_name_and_release(proxy: Proxy) -> None:
    named, own = get(proxy, "v2/models/deux"), get(proxy, "v2/models/ensemble", "deux").json()
    assert int(named.headers["content-length"]) == len(named.content)
    assert named.json() == {
        "parameters": {"model": "two-0.5b", "release": "org--two-0.5b/2"},
        "name": "two-0.5b",
        "versions": ["1"],
        "inputs": [{"name": "ensemble"}],
        "outputs": [],
        "platform": "two",
    }
    assert (own["name"], own["parameters"]) == ("ensemble", named.json()["parameters"])
    assert get(proxy, "v2/models/ensemble").json()["parameters"]["release"] == "org--one/7"


@pytest.mark.parametrize("path", ["v2/models/deux/generate", "v2/models/two-0.5b/versions/1/generate_stream"])
def test_a_body_is_checked_by_any_name(proxy: Proxy, path: str) -> None:
    assert "max_tokens must be given" in error(post(proxy, path, text_input="x"))
    assert "top_k must be" in error(post(proxy, path, **GOOD, top_k="1"))
    assert httpx.post(f"{proxy.url}/{path}", headers={"content-encoding": "gzip"}).status_code == 415


def test_the_inputs_of_the_engine_alone_are_others(proxy: Proxy) -> None:
    assert post(proxy, "v2/models/tensorrt_llm/generate", "deux", text_input="", input_ids=[1]).text == "two 0"


CLOSED = [
    ("POST", "v2/models/one/load"),
    ("POST", "v2/models/one/ready"),
    ("PUT", "v2/models/one/generate"),
    ("POST", "v2/models/one"),
    ("GET", "v2/models/one/trace/setting"),
    ("GET", "v2/models/one/versions/x/ready"),
    ("POST", "v2/models/preprocessing/infer"),
    ("POST", "v2/repository/index"),
    ("GET", "v2/logging"),
]


@pytest.mark.parametrize(("method", "path"), CLOSED)
@pytest.mark.parametrize("name", [None, "deux"])
def test_what_is_closed_is_so_for_each_name(proxy: Proxy, method: str, path: str, name: str | None) -> None:
    headers = {"x-gateway-model-name": name} if name else {}
    answer = httpx.request(method, f"{proxy.url}/{path}", headers=headers)
    assert (answer.status_code, "at that path" in error(answer)) == (404, True)
    assert "x-hf2triton-release" not in answer.headers


def test_a_method_that_is_closed_is_unimplemented(proxy: Proxy) -> None:
    method = "/inference.GRPCInferenceService/LogSettings"
    assert {refusal(proxy, *name, method=method)[0] for name in ((), ("deux",))} == {grpc.StatusCode.UNIMPLEMENTED}


def test_a_name_without_a_server_is_503_and_others_answer(proxy: Proxy, two: Upstream) -> None:
    serve(proxy, None, "two-0.5b", 2, "deux")
    answer = post(proxy, "v2/models/deux/generate")
    assert (answer.status_code, error(answer)) == (503, "model two-0.5b has no server now")
    assert refusal(proxy, "deux")[0] is grpc.StatusCode.UNAVAILABLE
    assert get(proxy, "v2/models/one/ready").text == "one"
    serve(proxy, two, "two-0.5b", 2, "deux")
    assert get(proxy, "v2/models/deux/ready").text == "two"


def test_a_server_that_dies_takes_down_its_name_alone(proxy: Proxy) -> None:
    with server("mortal") as mortal:
        serve(proxy, mortal.upstream, "mortal")
        assert get(proxy, "v2/models/mortal/ready").text == "mortal"
        mortal.kill()
        assert get(proxy, "v2/models/mortal/ready").status_code == 503
        assert get(proxy, "v2/health/ready").text == "one"


@pytest.mark.parametrize("name", ["ensemble", "tensorrt_llm", "preprocessing"])
def test_a_name_that_every_server_uses_is_reached_by_header(proxy: Proxy, three: Upstream, name: str) -> None:
    serve(proxy, three, name)
    assert (get(proxy, "v2/health/ready", name).text, call(proxy, name)[0]) == ("three", "three")
    assert get(proxy, f"v2/models/{name}/ready").text == "one"


@pytest.mark.parametrize("name", ["", "A", "../x", "a/b", "-a", "a" * 64, "a\n"])
def test_what_is_no_name_is_not_served(proxy: Proxy, three: Upstream, name: str) -> None:
    with pytest.raises(ValueError, match="pattern"):
        serve(proxy, three, name)
    assert set(proxy.served()) == {"one", "two-0.5b"}


def test_a_retired_name_is_unknown_once_it_is_drained(proxy: Proxy, root: Path) -> None:
    with httpx.stream("POST", f"{proxy.url}/v2/models/deux/infer", json={"inputs": []}) as stream:
        lines = stream.iter_lines()
        assert next(lines) == "data: two"
        proxy.point_to("two-0.5b", None)
        assert get(proxy, "v2/models/deux/ready").status_code == 404
        assert proxy.drain(0.1, "one") == 0
        assert proxy.drain(0.1) == proxy.drain(0.1, "two-0.5b") == 1
        assert next(line for line in lines if line) == "data: two"
    assert proxy.drain(LIMIT_S) == 0
    assert list(config.published(Files(root / "servers" / "proxy")).models) == ["one"]
    assert set(proxy.served()) == {"one"}


@pytest.mark.slow
def test_under_load_on_one_name_others_come_and_move_and_go(proxy: Proxy, two: Upstream, three: Upstream) -> None:
    with load(proxy.ports, "one") as named, load(proxy.ports) as bare:
        named.await_answers_by("one")
        bare.await_answers_by("one")
        for number in range(3):
            serve(proxy, two, "three", 1, "drei")
            assert get(proxy, "v2/models/drei/ready").text == "two"
            serve(proxy, three, "three", 2, "drei")
            assert proxy.drain(LIMIT_S) == 0
            assert call(proxy, "drei")[0] == "three"
            proxy.point_to("two-0.5b", None)
            proxy.drain(LIMIT_S)
            serve(proxy, two, "two-0.5b", number)
            proxy.point_to("three", None)
            assert proxy.drain(LIMIT_S) == 0
        counts = [*named.end().values(), *bare.end().values()]
    print(f"{sum(count['sent'] for count in counts)} requests, none failed: {json.dumps(counts)}")
    assert all(count["by"] == {"one": count["sent"]} for count in counts)


class Crash(BaseException):
    """The end of a process."""


@pytest.mark.parametrize("step", ["first", "second", "before the link", "before the list"])
def test_after_a_crash_within_a_change_the_next_one_completes_it(
    proxy: Proxy, root: Path, three: Upstream, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """A process that ends while it serves a new name: the other names are served on, and the new one can come."""
    with monkeypatch.context() as patch:
        crash_at(step, patch)
        with pytest.raises(Crash):
            serve(proxy, three, "three")
    again = proxy_of(settings_of(root, proxy.ports))
    again.ensure_running()
    assert (get(again, "v2/models/deux/ready").text, call(again)[0]) == ("two", "one")
    if step != "before the list":
        assert set(again.served()) == {"one", "two-0.5b"}
        assert get(again, "v2/models/three/ready").status_code == 404
    assert [one["labels"]["model"] for one in targets(root)] == list(again.served())
    serve(again, three, "three")
    assert get(again, "v2/models/three/ready").text == "three"
    again.point_to("three", None)
    assert again.drain(LIMIT_S) == 0
    config_files = {path.name for path in (root / "servers" / "proxy" / "config").iterdir() if path.is_dir()}
    assert len(config_files) == 2, "the routing, and the link to it"


def crash_at(step: str, patch: pytest.MonkeyPatch) -> None:
    """Makes the next change end there."""
    publish, steps = config.publish, iter(["first", "second"])

    def crash(*_: object) -> None:
        raise Crash

    def publish_or_crash(*args: object) -> str:
        if next(steps) == step:
            raise Crash
        return publish(*args)

    if step == "before the link":
        patch.setattr(config, "replace", crash)
    elif step == "before the list":
        wrote = config.list_targets
        left = iter([wrote])
        patch.setattr(config, "list_targets", lambda *args: next(left, crash)(*args))
    else:
        patch.setattr(config, "publish", publish_or_crash)


def test_what_envoy_does_not_take_is_taken_back(proxy: Proxy, three: Upstream, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("include.live.proxy._SWITCH_S", 1.0)
    monkeypatch.setattr("include.live.proxy.routes.any_of", lambda names: "(")
    with pytest.raises(ToolError, match="(?s)did not take its new routing.*rejected"):
        serve(proxy, three, "three")
    monkeypatch.undo()
    serve(proxy, three, "three")
    assert get(proxy, "v2/models/three/ready").text == "three"


def targets(root: Path) -> list[dict]:
    """The targets of servers; the last of all is the service's."""
    found = json.loads((root / "servers" / "prometheus" / "live.json").read_text())
    assert [one["labels"].get("job") for one in found] == [*[None] * (len(found) - 1), "openai_api"]
    return found[:-1]


def test_prometheus_finds_all_that_is_served(proxy: Proxy, root: Path, three: Upstream) -> None:
    serve(proxy, three, "three", 4)
    found = targets(root)
    assert [(one["labels"]["model"], one["labels"]["release"]) for one in found] == [
        ("one", "org--one/7"),
        ("three", "org--three/4"),
        ("two-0.5b", "org--two-0.5b/2"),
    ]
    for one, by in zip(found, ["one", "three", "two"], strict=True):
        (target,) = one["targets"]
        assert httpx.get(f"http://{target}{one['labels']['__metrics_path__']}").text == by
    proxy.point_to("three", None)
    assert [one["labels"]["model"] for one in targets(root)] == ["one", "two-0.5b"]


def test_the_routing_of_an_earlier_version_is_read_as_nothing(tmp_path: Path) -> None:
    files = Files(tmp_path / "proxy")
    state = files.routing / "routing.json"
    state.parent.mkdir(parents=True)
    old = {"current": {"ports": {"http": 1, "grpc": 2, "metrics": 3}, "address": "127.0.0.1"}, "draining": []}
    state.write_text(json.dumps(old))
    assert config.published(files) == config.Routing()
