"""The proxy in a container, against a real Docker engine."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from include.errors import HostError, ToolError
from include.live.proxy import Proxy, proxy_of
from include.live.proxy.envoy import LABEL_PROXY
from tests.support.certificates import write_pair
from tests.support.engine import BASE, client_or_skip
from tests.support.proxied import answers, come_and_go_under_load, serve, server, settings_of, some_ports

pytestmark = pytest.mark.docker


@pytest.fixture(scope="module")
def engine() -> Any:
    return client_or_skip()


@pytest.fixture
def proxy(engine: Any, tmp_path: Path) -> Iterator[Proxy]:
    proxy = proxy_of(settings_of(tmp_path, some_ports()), image=BASE)
    yield proxy
    proxy.stop()


def container(engine: Any, root: Path) -> dict[str, Any]:
    (found,) = engine.containers(all=True, filters={"label": f"{LABEL_PROXY}={root}/servers/proxy"})
    return engine.inspect_container(found["Id"])


def test_under_load_no_request_fails_while_servers_come_and_go(proxy: Proxy) -> None:
    proxy.ensure_running()
    come_and_go_under_load(proxy)


def test_it_comes_back_with_its_upstream_when_the_engine_starts_it_again(
    engine: Any, proxy: Proxy, tmp_path: Path
) -> None:
    proxy.ensure_running()
    with server("a") as a:
        serve(proxy, a.upstream)
        first = container(engine, tmp_path)
        engine.restart(first["Id"], timeout=0)
        proxy.ensure_running()
        assert answers(proxy.ports) == ("a", "a")
    again = container(engine, tmp_path)
    assert (again["Id"], again["HostConfig"]["RestartPolicy"]["Name"]) == (first["Id"], "unless-stopped")


def test_it_has_no_more_rights_than_it_needs(engine: Any, proxy: Proxy, tmp_path: Path) -> None:
    proxy.ensure_running()
    inspected = container(engine, tmp_path)
    assert inspected["Config"]["User"].split(":")[0] != "0"
    assert inspected["HostConfig"]["CapDrop"] == ["ALL"]
    assert inspected["HostConfig"]["SecurityOpt"] == ["no-new-privileges"]
    mounts = {Path(mount["Source"]).name: mount["RW"] for mount in inspected["Mounts"]}
    assert mounts == {"config": False, "run": True}


def test_stop_leaves_no_container(engine: Any, proxy: Proxy, tmp_path: Path) -> None:
    proxy.ensure_running()
    proxy.stop()
    assert not proxy.is_running()
    assert not engine.containers(all=True, filters={"label": f"{LABEL_PROXY}={tmp_path}/servers/proxy"})


def test_an_envoy_that_dies_as_it_starts_leaves_its_last_lines(engine: Any, tmp_path: Path) -> None:
    settings = settings_of(tmp_path, some_ports(), address="203.0.113.1")
    proxy = proxy_of(settings, image=BASE)
    with pytest.raises(ToolError, match="(?s)203.0.113.1.*Cannot assign requested address"):
        proxy.ensure_running()
    assert "Cannot assign" in (settings.log_directory / "proxy.log").read_text()
    assert not engine.containers(all=True, filters={"label": f"{LABEL_PROXY}={tmp_path}/servers/proxy"})


def test_an_image_that_is_not_there_says_how_it_is_made(engine: Any, tmp_path: Path) -> None:
    proxy = proxy_of(settings_of(tmp_path, some_ports()), image="hf2triton/none:0", build="make image")
    with pytest.raises(HostError, match="make image"):
        proxy.ensure_running()


def test_it_asks_for_keys_and_ends_tls_and_takes_new_keys_as_it_runs(engine: Any, tmp_path: Path) -> None:
    keys, (chain, key) = tmp_path / "keys.txt", write_pair(tmp_path)
    files = {"api_keys_file": keys, "tls_certificate_file": chain, "tls_key_file": key}
    keys.touch(0o600)
    keys.write_text("alice alice-0123456789abcdef\n")
    settings = settings_of(tmp_path, some_ports()).model_copy(update=files)
    proxy = proxy_of(settings, image=BASE)
    try:
        proxy.ensure_running()
        with server("a") as a, httpx.Client(base_url=proxy.url, verify=False) as client:
            serve(proxy, a.upstream)
            path = "/v2/models/ensemble/ready"
            assert proxy.url.startswith("https://")
            assert client.get(path).status_code == 401
            assert client.get(path, headers={"x-api-key": "alice-0123456789abcdef"}).text == "a"
            with proxy.client(5) as own:
                assert own.get(path).text == "a"
            keys.write_text("bob bob-0123456789abcdef\n")
            assert proxy.refresh_access() == []
            assert client.get(path, headers={"x-api-key": "alice-0123456789abcdef"}).status_code == 401
            assert client.get(path, headers={"x-api-key": "bob-0123456789abcdef"}).text == "a"
    finally:
        proxy.stop()
