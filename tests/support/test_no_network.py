"""The namespace does take the network away, and notices who wants it."""

from __future__ import annotations

import socket
import subprocess
import sys
from threading import Thread

import pytest

from tests.support.no_network import no_network

ASK = "import socket; socket.getaddrinfo('example.com', 443)"


def connect() -> None:
    with socket.socket() as tried, pytest.raises(OSError, match="unreachable"):
        tried.connect(("192.0.2.1", 443))


def connect_in_a_thread() -> None:
    thread = Thread(target=connect)
    thread.start()
    thread.join()


def look_up_in_a_process() -> None:
    assert subprocess.run([sys.executable, "-c", ASK], capture_output=True).returncode == 1


@pytest.mark.parametrize("attempt", [connect, connect_in_a_thread, look_up_in_a_process])
def test_an_attempt_fails_and_is_counted(attempt: object) -> None:
    with no_network() as attempts:
        assert attempts() == 0
        assert callable(attempt)
        attempt()
        assert attempts() > 0


def test_loopback_stays_and_is_not_counted() -> None:
    with no_network() as attempts, socket.create_server(("127.0.0.1", 0)) as server:
        socket.create_connection(server.getsockname()).close()
        assert attempts() == 0


def test_the_network_is_back_afterwards() -> None:
    def interfaces() -> list[str]:
        return [name for _, name in socket.if_nameindex()]

    before = interfaces()
    with no_network():
        assert interfaces() == ["lo"]
    assert interfaces() == before
