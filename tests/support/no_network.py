"""A network namespace with nothing in it but loopback, for what must work without a network."""

from __future__ import annotations

import ctypes
import fcntl
import socket
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

_CLONE_NEWNET = 0x40000000
_SIOCSIFFLAGS = 0x8914
_IFF_UP = 1


@contextmanager
def no_network() -> Iterator[Callable[[], int]]:
    """Within the block this thread, and all threads and processes that it starts, have loopback alone.

    Yields a function that tells how often any of them has tried to reach something else, a name server included: the
    kernel counts what has no route and what is sent to a closed UDP port. Of a namespace of its own only root can
    make one; for others the test is skipped.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    with Path("/proc/thread-self/ns/net").open() as before:
        if libc.unshare(_CLONE_NEWNET):
            pytest.skip("only root can take the network away")
        try:
            _loopback_up()
            yield lambda: _counter("Ip", "OutNoRoutes") + _counter("Udp", "NoPorts")
        finally:
            assert libc.setns(before.fileno(), _CLONE_NEWNET) == 0


def _loopback_up() -> None:
    with socket.socket() as any_socket:
        fcntl.ioctl(any_socket, _SIOCSIFFLAGS, struct.pack("16sh22x", b"lo", _IFF_UP))


def _counter(protocol: str, name: str) -> int:
    lines = [line.split() for line in Path("/proc/thread-self/net/snmp").read_text().splitlines()]
    names, values = (line for line in lines if line[0] == f"{protocol}:")
    return int(dict(zip(names, values, strict=True))[name])
