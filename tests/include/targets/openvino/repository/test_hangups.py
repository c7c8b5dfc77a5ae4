from __future__ import annotations

import socket

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


def test_a_connection_that_nobody_could_see_says_nothing() -> None:
    assert not Connections().lacks("203.0.113.9:5 192.0.2.1:80")
    assert not Connections().lacks("")


@pytest.mark.parametrize(
    ("parameters", "client"), [("", ""), ("{}", ""), ('{"triton_hf2triton_connection":"127.0.0.1:5"}', "127.0.0.1:5")]
)
def test_the_client_is_named_by_a_parameter(parameters: str, client: str) -> None:
    assert connection_of(parameters) == client
