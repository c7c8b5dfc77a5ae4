"""Servers and load for tests of a proxy, each in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from include.host.ports import free_ports
from include.live.proxy import Proxy, Served, Upstream
from include.settings import Settings
from include.triton.servers import Ports

HERE = Path(__file__).parent
NAME = "one"
SWITCHES = 3
LIMIT_S = 20.0


@contextmanager
def program(name: str, *args: object) -> Iterator[subprocess.Popen[str]]:
    """A helper program; it ends when its standard input does."""
    argv = [sys.executable, str(HERE / name), *map(str, args)]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        yield process
        process.kill()


@dataclass(frozen=True)
class Server:
    """A dummy of Triton, as a program."""

    upstream: Upstream
    process: subprocess.Popen[str]

    def kill(self) -> None:
        """Ends it as roughly as can be."""
        self.process.kill()
        self.process.wait()


@contextmanager
def server(name: str, step_s: float = 0.1) -> Iterator[Server]:
    """A server that takes ten steps for each answer."""
    with program("upstream.py", name, step_s) as process:
        yield Server(Upstream(ports=Ports.model_validate_json(process.stdout.readline())), process)


class Load:
    """Requests of all kinds at once, from a process of its own."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self._kinds = 6

    def await_answers_by(self, name: str) -> None:
        """Waits until each kind was answered by that server; fails at the first request that does."""
        waited_for = self._kinds
        while waited_for:
            line = json.loads(self._process.stdout.readline())
            assert "failure" not in line, line
            waited_for -= line["by"] == name

    def end(self) -> dict[str, dict]:
        """What was counted; asserts that nothing failed."""
        said = [json.loads(line) for line in self._process.communicate()[0].splitlines()]
        assert len(said) == 1, said
        return said[0]["counts"]


@contextmanager
def load(ports: Ports, *name: str) -> Iterator[Load]:
    with program("proxy_load.py", ports.http, ports.grpc, *name) as process:
        yield Load(process)


def some_ports() -> Ports:
    http, grpc, metrics = free_ports(3)
    return Ports(http=http, grpc=grpc, metrics=metrics)


def settings_of(root: Path, ports: Ports, address: str = "127.0.0.1") -> Settings:
    return Settings(
        artifacts=root,
        bind_address=address,
        live_http_port=ports.http,
        live_grpc_port=ports.grpc,
        live_metrics_port=ports.metrics,
    )


def serve(proxy: Proxy, upstream: Upstream | None, name: str = NAME, number: int = 1, *aliases: str) -> None:
    """Serves a release of ``org--<name>`` under a name, or the name without a server; the name is the default."""
    proxy.point_to(name, Served(upstream=upstream, release=f"org--{name}/{number}", aliases=aliases))
    if proxy.default() is None:
        proxy.set_default(name)


def answers(ports: Ports) -> tuple[str, ...]:
    """Who answers on the HTTP and on the metrics port."""
    paths = {ports.http: "v2/health/ready", ports.metrics: "metrics"}
    return tuple(httpx.get(f"http://127.0.0.1:{port}/{path}").text for port, path in paths.items())


def come_and_go_under_load(proxy: Proxy) -> None:
    """Servers take over from one another, each is killed once it is drained: asserts that no request is lost."""
    with ExitStack() as running:
        old = running.enter_context(server("server-0"))
        serve(proxy, old.upstream)
        sender = running.enter_context(load(proxy.ports))
        sender.await_answers_by("server-0")
        for number in range(1, SWITCHES + 1):
            new = running.enter_context(server(f"server-{number}"))
            serve(proxy, new.upstream, NAME, number)
            assert proxy.drain(LIMIT_S) == 0
            old.kill()
            sender.await_answers_by(f"server-{number}")
            old = new
        counts = sender.end()
    total = sum(count["sent"] for count in counts.values())
    print(f"{total} requests, {SWITCHES} switches: {json.dumps(counts)}")
    for count in counts.values():
        assert sum(count["by"].values()) == count["sent"]
        assert set(count["by"]) == {f"server-{number}" for number in range(SWITCHES + 1)}
