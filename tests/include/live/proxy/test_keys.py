"""API keys: the file of them, and what a real Envoy answers to those who have one and those who do not."""

from __future__ import annotations

import json
import os
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Event, Thread

import grpc
import httpx
import pytest

from include.errors import HostError, PipelineError, UserError
from include.live.proxy import Proxy, proxy_of
from include.live.proxy.envoy import Envoy
from include.live.proxy.keys import read_keys
from include.settings import Settings
from tests.support.proxied import serve, server, settings_of, some_ports
from tests.support.wait import wait_for

ALICE, BOB, CAROL = (f"{name}-" + "0123456789abcdef" * 2 for name in ("alice", "bob", "carol"))
BODY = {"text_input": "hello", "max_tokens": 8}
GENERATE = "/v2/models/ensemble/generate"
INFER, READY = (f"/inference.GRPCInferenceService/{method}" for method in ("ModelInfer", "ServerReady"))


def write(path: Path, *lines: str, mode: int = 0o600) -> Path:
    """Writes the file as an editor does, in another's place."""
    draft = path.with_suffix(".new")
    draft.write_text("\n".join(lines) + "\n")
    draft.chmod(mode)
    draft.replace(path)
    return path


def guarded(root: Path) -> Settings:
    file = write(root / "keys.txt", "# clients", "", f"alice {ALICE}", f"bob\t{BOB}")
    return settings_of(root / "store", some_ports()).model_copy(update={"api_keys_file": file})


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    return guarded(tmp_path_factory.mktemp("keys"))


@pytest.fixture(scope="module")
def proxy(settings: Settings) -> Iterator[Proxy]:
    proxy = proxy_of(settings)
    proxy.ensure_running()
    with server("a") as behind:
        serve(proxy, behind.upstream)
        yield proxy
    proxy.stop()


@pytest.fixture
def file(settings: Settings) -> Iterator[Path]:
    """The file of keys, which is as it was after the test."""
    path = settings.api_keys_file
    before = path.read_text().splitlines()
    yield path
    write(path, *before)
    proxy_of(settings).refresh_access()


def ask(proxy: Proxy, **headers: str) -> httpx.Response:
    return httpx.post(f"{proxy.url}{GENERATE}", json=BODY, headers=headers, timeout=20, trust_env=False)


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


def call(proxy: Proxy, path: str, *metadata: tuple[str, str]) -> grpc.StatusCode:
    with grpc.insecure_channel(f"127.0.0.1:{proxy.ports.grpc}") as channel:
        try:
            channel.unary_unary(path)(b"", timeout=20, metadata=metadata)
        except grpc.RpcError as error:
            return error.code()
        return grpc.StatusCode.OK


@pytest.mark.parametrize("headers", [bearer(ALICE), {"x-api-key": BOB}, bearer(BOB)], ids=["alice", "x-api-key", "bob"])
def test_who_has_a_key_is_answered(proxy: Proxy, headers: dict[str, str]) -> None:
    assert ask(proxy, **headers).text == "a 5"


WRONG = [
    {},
    bearer(CAROL),
    {"authorization": "Bearer"},
    {"x-api-key": CAROL},
    {"authorization": f"Basic {ALICE}"},
    bearer(ALICE[:-1]),
]


@pytest.mark.parametrize("headers", WRONG)
def test_who_has_none_is_told_so_in_json(proxy: Proxy, headers: dict[str, str]) -> None:
    answer = ask(proxy, **headers)
    assert (answer.status_code, answer.headers["content-type"]) == (401, "application/json")
    assert "Bearer" in answer.json()["error"]
    assert answer.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize(
    "path", ["/v2", "/v2/models/ensemble", "/v2/models/ensemble/ready", "/anything", "/v2/logging"]
)
def test_nothing_but_health_is_shown_without_a_key(proxy: Proxy, path: str) -> None:
    assert httpx.get(f"{proxy.url}{path}").status_code == 401


@pytest.mark.parametrize(
    "path", ["/v2/health/../models/ensemble", "/v2/health/readyx", "/v2/models/ensemble?x=/v2/health/ready", "//v2"]
)
def test_a_path_that_looks_like_health_is_not_open(proxy: Proxy, path: str) -> None:
    assert httpx.get(f"{proxy.url}{path}").status_code == 401


@pytest.mark.parametrize("path", ["/v2/health/live", "/v2/health/ready", "/v2/health/ready?verbose=1"])
def test_health_is_open(proxy: Proxy, path: str) -> None:
    assert httpx.get(f"{proxy.url}{path}").text == "a"


def test_openais_paths_need_a_key_too_and_say_so_in_its_form(proxy: Proxy) -> None:
    answer = httpx.get(f"{proxy.url}/v1/models")
    assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")
    assert "Bearer" in answer.json()["error"]["message"]
    passed = httpx.get(f"{proxy.url}/v1/models", headers=bearer(ALICE))
    assert (passed.status_code, passed.json()["error"]["type"]) == (503, "server_error"), "no service is behind it"


def test_metrics_need_a_key(proxy: Proxy) -> None:
    url = f"http://127.0.0.1:{proxy.ports.metrics}/metrics"
    assert httpx.get(url).status_code == 401
    assert httpx.get(url, headers=bearer(ALICE)).text == "a"


def test_grpc_takes_the_same_keys_as_metadata(proxy: Proxy) -> None:
    ok, refused = grpc.StatusCode.OK, grpc.StatusCode.UNAUTHENTICATED
    assert call(proxy, INFER, ("authorization", f"Bearer {ALICE}")) is ok
    assert call(proxy, INFER, ("x-api-key", BOB)) is ok
    assert call(proxy, INFER) is refused
    assert call(proxy, INFER, ("x-api-key", CAROL)) is refused
    # The dummy has no such methods, but that is its own answer.
    for path in (READY, "/inference.GRPCInferenceService/ServerLive", "/grpc.health.v1.Health/Check"):
        assert call(proxy, path) is grpc.StatusCode.UNIMPLEMENTED
    assert call(proxy, "/inference.GRPCInferenceService/ServerMetadata") is refused


def test_the_server_gets_the_clients_name_and_no_key(proxy: Proxy) -> None:
    seen = httpx.get(f"{proxy.url}/v2/models/ensemble/config", headers={**bearer(ALICE), "x-hf2triton-client": "bob"})
    assert (seen.headers["x-saw-client"], seen.headers["x-saw-key"]) == ("alice", "")
    for path in ("/v2/health/ready", "/v2/models/ensemble/config"):
        assert not httpx.get(f"{proxy.url}{path}", headers={"x-api-key": ALICE, **bearer(ALICE)}).headers["x-saw-key"]


def test_its_own_calls_have_a_key(settings: Settings, proxy: Proxy) -> None:
    with proxy_of(settings).client(20) as http:
        assert http.post(GENERATE, json=BODY).text == "a 5"


def test_a_change_is_taken_without_a_failed_request(proxy: Proxy, file: Path, settings: Settings) -> None:
    end, answers = Event(), list[int]()

    def keep_asking(connection: httpx.Client) -> None:
        while not end.is_set():
            answers.append(connection.post(GENERATE, json=BODY, headers=bearer(ALICE)).status_code)

    with httpx.Client(base_url=proxy.url, timeout=20, trust_env=False) as connection:
        threads = [Thread(target=keep_asking, args=(connection,)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for number in range(8):
            others = [f"client-{number} {CAROL}"] if number % 2 else []
            write(file, f"alice {ALICE}", *others)
            assert proxy_of(settings).refresh_access() == []
            wait_for(lambda: ask(proxy, **bearer(CAROL)).status_code == (200 if others else 401))  # noqa: B023
        end.set()
        for thread in threads:
            thread.join()
    assert set(answers) == {200}
    assert ask(proxy, **bearer(BOB)).status_code == 401


def test_streams_go_on_while_keys_change(proxy: Proxy, file: Path, settings: Settings) -> None:
    body = {"inputs": []}
    with (
        httpx.stream(
            "POST", f"{proxy.url}/v2/models/ensemble/infer", json=body, headers=bearer(ALICE), timeout=20
        ) as http,
        grpc.insecure_channel(f"127.0.0.1:{proxy.ports.grpc}") as channel,
    ):
        lines, stream = http.iter_lines(), channel.unary_stream("/inference.GRPCInferenceService/ModelStreamInfer")
        pieces = stream(b"", timeout=20, metadata=[("x-api-key", ALICE)])
        assert (next(lines), next(pieces)) == ("data: a", b"a 0")
        write(file, f"carol {CAROL}")
        assert proxy_of(settings).refresh_access() == []
        assert ask(proxy, **bearer(ALICE)).status_code == 401
        assert len(list(pieces)) == 9
        assert [next(lines) for _ in range(9)].count("data: a") >= 4


BROKEN: list[tuple[str, Callable[[Path], object], str]] = [
    ("readable by others", lambda path: path.chmod(0o644), "mode 0644"),
    ("readable by its group", lambda path: path.chmod(0o640), "mode 0640"),
    ("empty", lambda path: write(path, ""), "no key"),
    ("comments only", lambda path: write(path, "# alice"), "no key"),
    ("without a name", lambda path: write(path, f"alice {ALICE}", CAROL), "line 2"),
    ("short", lambda path: write(path, "alice short"), "line 1"),
    ("two keys", lambda path: write(path, f"alice {ALICE} {BOB}"), "line 1"),
    ("not ASCII", lambda path: write(path, f"alice {ALICE}é"), "line 1"),
    ("twice", lambda path: write(path, f"alice {ALICE}", f"bob {BOB}", f"carol {ALICE}"), "line 3"),
    ("its own name", lambda path: write(path, f"hf2triton {ALICE}"), "the deployment itself"),
    ("binary", lambda path: path.write_bytes(b"\xff\xfe"), "no text"),
    ("long", lambda path: path.write_text("#" * (2 << 20)), "longer than"),
    ("missing", lambda path: path.unlink(), "No such file"),
    ("a directory", lambda path: (path.unlink(), path.mkdir()), "directory"),
    ("a FIFO", lambda path: (path.unlink(), os.mkfifo(path)), "FIFO"),
]


@pytest.mark.parametrize(("breaks", "said"), [one[1:] for one in BROKEN], ids=[one[0] for one in BROKEN])
def test_a_broken_file_is_refused_without_showing_a_key(
    tmp_path: Path, breaks: Callable[[Path], object], said: str
) -> None:
    settings = guarded(tmp_path)
    breaks(settings.api_keys_file)
    with pytest.raises(PipelineError, match=said) as caught:
        proxy_of(settings).ensure_running()
    assert "HF2TRITON_API_KEYS_FILE" in str(caught.value) or "keys.txt" in str(caught.value)
    assert not any(key in str(caught.value) for key in (ALICE, BOB, CAROL))
    assert not (settings.artifacts / "servers" / "proxy.json").exists()


def test_a_relative_path_is_refused() -> None:
    with pytest.raises(UserError, match="no absolute path"):
        read_keys(Path("keys.txt"))


def test_a_client_may_have_two_keys_and_lines_of_windows(tmp_path: Path) -> None:
    path = write(tmp_path / "keys", f"alice {ALICE}\r", f"  alice   {BOB}  \r", "  # the end\r")
    assert read_keys(path) == {ALICE: "alice", BOB: "alice"}


def test_a_broken_new_file_keeps_the_last_good_keys(proxy: Proxy, file: Path, settings: Settings) -> None:
    write(file, f"alice {ALICE}", CAROL, mode=0o644)
    (problem,) = proxy_of(settings).refresh_access()
    assert isinstance(problem, HostError)
    said = list[str]()
    proxy_of(settings, said.append).ensure_running()
    assert "mode 0644" in said[0]
    assert "last good" in said[0]
    assert ask(proxy, **bearer(BOB)).status_code == 200
    assert ask(proxy, **bearer(CAROL)).status_code == 401


def test_no_key_is_anywhere_but_in_private_files(proxy: Proxy, file: Path, settings: Settings) -> None:
    access = settings.artifacts / "servers" / "proxy" / "config" / "access"
    own = next(one["key"] for one in published(access) if one["client"] == "hf2triton")
    ask(proxy, **bearer(ALICE))
    damaged = (access / "keys.json").read_text()[:-40]
    write(access / "keys.json", damaged)  # what a damaged disk might do: Envoy must not quote it
    time.sleep(0.5)  # what it might log has to have been written
    assert ask(proxy, **bearer(ALICE)).status_code == 200
    write(file, f"alice {ALICE}", f"carol {CAROL}")
    proxy_of(settings).refresh_access()
    assert {one["client"] for one in published(access)} == {"alice", "carol", "hf2triton"}
    assert stat.S_IMODE(access.stat().st_mode) == 0o700
    with_keys = [path for path in file.parent.rglob("*") if path.is_file() and holds(path, (ALICE, BOB, CAROL, own))]
    assert {path.name for path in with_keys} == {"keys.txt", "keys.json"}
    assert {stat.S_IMODE(path.stat().st_mode) for path in with_keys} == {0o600}


def published(access: Path) -> list[dict[str, str]]:
    filters = json.loads((access / "keys.json").read_text())["resources"][0]["typed_config"]["extension_config"]
    return filters["typed_config"]["credentials"]


def holds(path: Path, secrets: tuple[str, ...]) -> bool:
    content = path.read_bytes()
    return any(secret.encode() in content for secret in secrets)


def test_stop_removes_the_copies_and_so_does_unsetting(tmp_path: Path) -> None:
    settings = guarded(tmp_path)
    access = settings.artifacts / "servers" / "proxy" / "config" / "access"
    proxy_of(settings).ensure_running()
    assert (access / "keys.json").exists()
    without = settings.model_copy(update={"api_keys_file": None})
    proxy = proxy_of(without)
    proxy.ensure_running()
    assert httpx.get(f"{proxy.url}/v2").status_code == 503
    assert not (access / "keys.json").exists()
    proxy_of(settings).ensure_running()
    assert httpx.get(f"{proxy.url}/v2").status_code == 401
    proxy.stop()
    assert not access.exists()


def test_without_the_settings_envoy_is_configured_as_if_there_were_none(tmp_path: Path) -> None:
    proxy = proxy_of(guarded(tmp_path).model_copy(update={"api_keys_file": None}))
    proxy.ensure_running()
    bootstrap = (tmp_path / "store" / "servers" / "proxy" / "config" / "bootstrap.json").read_text()
    proxy.stop()
    assert not any(word in bootstrap for word in ("api_key", "drop_", "401", "transport_socket", "/access"))


def test_turning_keys_on_with_a_broken_file_changes_nothing(tmp_path: Path) -> None:
    settings = guarded(tmp_path)
    settings.api_keys_file.chmod(0o644)
    proxy = proxy_of(settings.model_copy(update={"api_keys_file": None}))
    proxy.ensure_running()
    with pytest.raises(HostError, match="chmod 600"):
        proxy_of(settings).ensure_running()
    assert httpx.get(f"{proxy.url}/v2").status_code == 503
    proxy.stop()


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give files away")
def test_envoys_own_user_in_a_container_can_read_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = guarded(tmp_path)
    monkeypatch.setattr(Envoy, "find", lambda self: None)
    proxy_of(settings, image="image").refresh_access()
    access = settings.artifacts / "servers" / "proxy" / "config" / "access"
    for path, mode in ((access, 0o700), (access / "keys.json", 0o600)):
        assert (path.stat().st_uid, stat.S_IMODE(path.stat().st_mode)) == (65534, mode)
