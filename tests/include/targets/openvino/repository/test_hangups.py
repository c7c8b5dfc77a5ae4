from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import hangups
import pytest
from hangups import Connections, connection_of

from tests.support.wait import wait_for


@pytest.mark.parametrize(("family", "host"), [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")])
def test_a_connection_that_its_client_closes_is_lacking(family: socket.AddressFamily, host: str) -> None:
    connections = Connections()
    with socket.socket(family) as listener:
        listener.bind((host, 0))
        listener.listen()
        with socket.create_connection(listener.getsockname()[:2]):
            server, (address, port, *_) = listener.accept()
            ends = [(address, port), listener.getsockname()[:2]]
            name = " ".join(f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port in ends)
            assert not connections.lacks(name)
        wait_for(lambda: connections.lacks(name))
        server.close()


@pytest.mark.parametrize("name", ["", "203.0.113.9:5 192.0.2.1:80", "a client", "192.0.2.1:80 :80", "::1 [::1]:x"])
def test_a_connection_that_nobody_could_see_says_nothing(name: str) -> None:
    assert not Connections().lacks(name)


@pytest.mark.parametrize(
    "name", ["", "a client", "192.0.2.1:99999 192.0.2.1:-1", "[fe80::1]:5 [fe80::2]:80", "[::1]:5 127.0.0.1:80:90 x"]
)
def test_what_names_no_connection_says_nothing_where_others_are_told_apart(name: str) -> None:
    connections = Connections()
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.create_connection(listener.getsockname()) as client:
        server, _ = listener.accept()
        with server:
            assert not connections.lacks(_named(client.getsockname(), server.getsockname()))
            assert connections.lacks(_named(("127.0.0.1", 1), server.getsockname()))
            assert not connections.lacks(name)


def _named(*ends: tuple[str, int]) -> str:
    return " ".join(f"{address}:{port}" for address, port in ends)


@pytest.mark.parametrize(
    ("parameters", "client"), [("", ""), ("{}", ""), ('{"triton_hf2triton_connection":"127.0.0.1:5"}', "127.0.0.1:5")]
)
def test_the_client_is_named_by_a_parameter(parameters: str, client: str) -> None:
    assert connection_of(parameters) == client


def test_servers_whose_processes_have_the_same_number_in_containers_of_one_network_are_told_apart() -> None:
    """As in containers with the host's network: each is process 1 of its own."""
    isolate = ["unshare", "--pid", "--fork"] if os.geteuid() == 0 else ["unshare", "--user", "--pid", "--fork"]
    if subprocess.run([*isolate, "true"], capture_output=True).returncode:
        pytest.skip("the kernel gives no namespace of processes")
    code = "import hangups; print(repr(hangups.address()))"
    env = {"PYTHONPATH": str(Path(hangups.__file__).parent)}
    told = [subprocess.check_output([*isolate, sys.executable, "-c", code], env=env, text=True) for _ in range(2)]
    assert "-0" in told[0]
    assert told[0] != told[1]


def test_postprocessing_calls_the_engine_by_the_same_name() -> None:
    """They are two Triton models, which share no code."""
    repository = Path(hangups.__file__).parents[2]
    files = ("tensorrt_llm/1/hangups.py", "postprocessing/1/model.py")
    (engine,), (postprocessing,) = (re.findall(r'f".0hf2triton.*"', (repository / file).read_text()) for file in files)
    assert engine == postprocessing
