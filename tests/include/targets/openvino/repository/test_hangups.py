from __future__ import annotations

import socket
import time

import pytest
from hangups import Connections, connection_of


@pytest.mark.parametrize(("family", "host"), [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")])
def test_a_connection_that_its_client_closes_is_lacking(family: socket.AddressFamily, host: str) -> None:
    connections = Connections()
    with socket.socket(family) as listener:
        listener.bind((host, 0))
        listener.listen()
        with socket.create_connection(listener.getsockname()[:2]):
            server, (address, port, *_) = listener.accept()
            name = f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
            assert not connections.lacks(name)
        time.sleep(0.2)
        assert connections.lacks(name)
        server.close()


def test_a_connection_that_nobody_could_see_says_nothing() -> None:
    assert not Connections().lacks("203.0.113.9:5")
    assert not Connections().lacks("")


@pytest.mark.parametrize(
    ("parameters", "client"), [("", ""), ("{}", ""), ('{"triton_hf2triton_connection":"127.0.0.1:5"}', "127.0.0.1:5")]
)
def test_the_client_is_named_by_a_parameter(parameters: str, client: str) -> None:
    assert connection_of(parameters) == client
