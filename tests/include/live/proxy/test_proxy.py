"""The proxy as a process, against real servers and a real Envoy."""

from __future__ import annotations

import os
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import httpx
import psutil
import pytest

from include.errors import HostError, ToolError, UserError
from include.host import ports as host_ports
from include.host.services import find
from include.host.services.process import ProcessBackend
from include.live.proxy import Proxy, Served, Upstream, proxy_of
from include.live.proxy.envoy import ProxyRecord
from include.settings import PROJECT
from include.triton.servers import Ports
from tests.support.proxied import LIMIT_S, NAME, answers, come_and_go_under_load, serve, server, settings_of, some_ports

MakeProxy = Callable[..., Proxy]


@pytest.fixture(scope="module")
def a() -> Iterator[Upstream]:
    with server("a") as running:
        yield running.upstream


@pytest.fixture(scope="module")
def b() -> Iterator[Upstream]:
    with server("b") as running:
        yield running.upstream


@pytest.fixture(scope="module")
def shared_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("shared")


@pytest.fixture(scope="module")
def shared(shared_root: Path) -> Iterator[Proxy]:
    """A proxy that runs as long as the tests."""
    proxy = proxy_of(settings_of(shared_root, some_ports()))
    proxy.ensure_running()
    yield proxy
    proxy.stop()


@pytest.fixture
def ports() -> Ports:
    """The stable address of a test's own proxy."""
    return some_ports()


@pytest.fixture
def make(tmp_path: Path, ports: Ports) -> Iterator[MakeProxy]:
    """Makes the object of the test's own proxy anew, as each process that uses it does."""
    yield lambda **other: proxy_of(settings_of(tmp_path, **{"ports": ports, **other}))
    proxy_of(settings_of(tmp_path, ports)).stop()


@pytest.fixture
def own(make: MakeProxy) -> Proxy:
    """A proxy that a test can end."""
    proxy = make()
    proxy.ensure_running()
    return proxy


def pid(root: Path) -> int:
    record = find(root / "servers" / "proxy.json", ProxyRecord, ProcessBackend())
    assert record is not None
    return record.pid


def envoys(root: Path) -> list[int]:
    """Pids of all Envoys of this deployment."""
    return [
        p.pid for p in psutil.process_iter(["cmdline"]) if f"{root}/servers/proxy" in " ".join(p.info["cmdline"] or [])
    ]


@pytest.mark.slow
def test_under_load_no_request_fails_while_servers_come_and_go(shared: Proxy) -> None:
    come_and_go_under_load(shared)


def test_all_ports_move_to_the_new_upstream_and_back(shared: Proxy, a: Upstream, b: Upstream) -> None:
    for upstream, name in [(a, "a"), (b, "b"), (a, "a")]:
        serve(shared, upstream)
        assert answers(shared.ports) == (name, name)
        assert shared.served()[NAME].upstream == upstream


def test_what_is_in_flight_is_counted_and_ends_where_it_began(shared: Proxy, a: Upstream, b: Upstream) -> None:
    serve(shared, a)
    with httpx.stream(
        "POST", f"http://127.0.0.1:{shared.ports.http}/v2/models/ensemble/infer", json={"text_input": "x"}
    ) as stream:
        lines = stream.iter_lines()
        first = next(lines)
        serve(shared, b)
        assert shared.drain(limit_s=0.1) == 1
        assert answers(shared.ports) == ("b", "b")
        assert next(line for line in lines if line) == first == "data: a"
    assert shared.drain(LIMIT_S) == 0


def test_a_drained_server_that_comes_back_gets_requests_again(shared: Proxy, a: Upstream, b: Upstream) -> None:
    serve(shared, a)
    serve(shared, b)
    shared.drain(LIMIT_S)
    serve(shared, a)
    assert answers(shared.ports) == ("a", "a")


def is_healthy(proxy: Proxy) -> bool:
    """Whether the server behind the stable address says, through it, that it is ready."""
    return httpx.get(f"{proxy.url}/v2/health/ready", timeout=5, trust_env=False).status_code == httpx.codes.OK


def assert_refuses(proxy: Proxy) -> None:
    answer = httpx.post(f"{proxy.url}/v2/models/ensemble/generate", json={"text_input": "x", "max_tokens": 1})
    assert (answer.status_code, list(answer.json())) == (503, ["error"])
    assert proxy.served().get(NAME, Served(upstream=None, release="none")).upstream is None
    assert not is_healthy(proxy)
    with grpc.insecure_channel(f"127.0.0.1:{proxy.ports.grpc}") as channel, pytest.raises(grpc.RpcError) as caught:
        channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")(b"", timeout=LIMIT_S)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


def test_without_an_upstream_requests_are_refused_as_triton_does(shared: Proxy, a: Upstream) -> None:
    serve(shared, a)
    serve(shared, None)
    assert_refuses(shared)


def test_healthy_is_what_the_server_behind_it_says(shared: Proxy) -> None:
    with server("short-lived") as one:
        serve(shared, one.upstream)
        assert is_healthy(shared)
        one.kill()
        assert not is_healthy(shared)
    assert shared.is_running()


def test_only_its_user_can_reach_the_admin_interface(shared: Proxy, shared_root: Path) -> None:
    path = shared_root / "servers" / "proxy" / "run" / "admin.sock"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert host_ports.listening(psutil.Process(pid(shared_root))) == set(shared.ports.all)


def test_it_outlives_its_starter_and_keeps_its_upstream(
    make: MakeProxy, tmp_path: Path, ports: Ports, a: Upstream
) -> None:
    code = f"""
from include.live.proxy import Served, Upstream, proxy_of
from include.settings import Settings
proxy = proxy_of(Settings.model_validate_json({settings_of(tmp_path, ports).model_dump_json()!r}))
proxy.ensure_running()
upstream = Upstream.model_validate_json({a.model_dump_json()!r})
proxy.point_to("one", Served(upstream=upstream, release="org--one/1"))
proxy.set_default("one")
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=PROJECT)
    first = pid(tmp_path)
    make().ensure_running()
    assert pid(tmp_path) == first
    envoy = psutil.Process(first)
    envoy.kill()
    envoy.wait(10)  # until then it may hold its ports
    make().ensure_running()
    assert pid(tmp_path) != first
    assert answers(ports) == ("a", "a")


def test_two_starters_at_once_start_one_without_an_upstream(make: MakeProxy, tmp_path: Path) -> None:
    with ThreadPoolExecutor() as pool:
        list(pool.map(lambda proxy: proxy.ensure_running(), [make(), make()]))
    assert len(envoys(tmp_path)) == 1
    assert_refuses(make())


def test_other_ports_take_effect_at_the_next_start(make: MakeProxy, own: Proxy, tmp_path: Path, a: Upstream) -> None:
    serve(own, a)
    before, others = pid(tmp_path), some_ports()
    make(ports=others).ensure_running()
    assert answers(others) == ("a", "a")
    assert pid(tmp_path) != before


@pytest.mark.parametrize("address", ["0.0.0.0", "::"], ids=["IPv4", "IPv6"])
def test_bound_everywhere_it_answers_on_this_host(make: MakeProxy, ports: Ports, a: Upstream, address: str) -> None:
    proxy = make(address=address)
    proxy.ensure_running()
    serve(proxy, a)
    assert is_healthy(proxy)
    assert answers(ports) == ("a", "a")


def test_stop_leaves_no_process_no_port_taken_and_no_upstream(
    make: MakeProxy, own: Proxy, ports: Ports, tmp_path: Path, a: Upstream
) -> None:
    serve(own, a)
    own.stop()
    assert not envoys(tmp_path)
    for port in ports.all:
        host_ports.check_port_free(port)
    assert not own.is_running()
    assert make().served() == {}
    own.stop()


def test_a_taken_port_is_named_with_its_holder(make: MakeProxy, ports: Ports, tmp_path: Path) -> None:
    taken = f"port {ports.grpc} is taken by .*pid {os.getpid()}"
    with socket.create_server(("127.0.0.1", ports.grpc)), pytest.raises(HostError, match=taken):
        make().ensure_running()
    assert not envoys(tmp_path)


def test_a_taken_new_port_does_not_end_the_proxy_that_runs(make: MakeProxy, own: Proxy, ports: Ports) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        other = ports.model_copy(update={"metrics": listener.getsockname()[1]})
        with pytest.raises(HostError, match=f"port {other.metrics} is taken"):
            make(ports=other).ensure_running()
    assert own.is_running()


def test_an_envoy_that_dies_as_it_starts_is_a_tool_error_with_its_last_lines(make: MakeProxy, tmp_path: Path) -> None:
    with pytest.raises(ToolError, match="(?s)203.0.113.1.*Cannot assign requested address"):
        make(address="203.0.113.1").ensure_running()
    assert not envoys(tmp_path)
    assert not make().is_running()


def test_a_proxy_that_does_not_run_takes_no_upstream(own: Proxy, tmp_path: Path, a: Upstream, b: Upstream) -> None:
    serve(own, a)
    os.kill(pid(tmp_path), signal.SIGKILL)
    with pytest.raises(ToolError, match="the proxy does not run"):
        serve(own, b)
    assert own.served()[NAME].upstream == a


def test_an_address_that_is_a_name_is_refused(make: MakeProxy) -> None:
    with pytest.raises(UserError, match="'localhost': it is no IP address"):
        make(address="localhost")


def test_a_path_too_long_for_a_socket_is_refused(tmp_path: Path, ports: Ports) -> None:
    with pytest.raises(HostError, match="more than 107 bytes"):
        proxy_of(settings_of(tmp_path / ("x" * 100), ports))
