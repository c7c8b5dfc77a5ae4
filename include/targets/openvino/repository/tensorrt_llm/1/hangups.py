"""Which answers nobody takes any more.

Triton does not tell a running model inside an ensemble that the client has gone
(github.com/triton-inference-server/server/issues/6739), only the steps after it. So postprocessing, which gets every
piece, passes it on through a socket named after the server's process, the parent of both.

An answer that comes at once has no pieces. The proxy tells with each request the client's end of its connection: the
kernel knows whether that is still open.
"""

from __future__ import annotations

import itertools
import json
import os
import socket
import struct
import time
from collections.abc import Iterator
from pathlib import Path

_STREAM = struct.Struct("<q")
_CONNECTION = "triton_hf2triton_connection"
_TABLES = {Path("/proc/net/tcp"): socket.AF_INET, Path("/proc/net/tcp6"): socket.AF_INET6}
_ESTABLISHED = "01"
_LOOKED_UP_S = 0.1


def connection_of(parameters: str) -> str:
    """Both ends of the client's connection to the proxy, out of a request's parameters; empty without a proxy."""
    return str(json.loads(parameters or "{}").get(_CONNECTION, ""))


class Connections:
    """The TCP connections of this host, by their other end and their own.

    A server in a container of its own network sees none of the proxy, and so takes every client for waiting.
    """

    def __init__(self) -> None:
        self._open: frozenset[str] = frozenset()
        self._at = 0.0
        self._told_apart = False

    def lacks(self, client: str) -> bool:
        """Whether the client has closed its connection, as far as that can be known: in a container it cannot."""
        if not client:
            return False
        # The last look may be older than a connection that it does not show.
        unseen = self._told_apart and client not in self._open
        if unseen or time.monotonic() - self._at > _LOOKED_UP_S:
            self._open = frozenset(_established())
            self._at = time.monotonic()
        self._told_apart = self._told_apart or client in self._open
        return self._told_apart and client not in self._open


def _established() -> Iterator[str]:
    for table, family in _TABLES.items():
        lines = table.read_text().splitlines()[1:] if table.exists() else []
        for fields in map(str.split, lines):
            if fields[3] == _ESTABLISHED:
                yield f"{_end(fields[2], family)} {_end(fields[1], family)}"


def _end(written: str, family: socket.AddressFamily) -> str:
    """The kernel's form of an address, words of this machine's byte order in hexadecimal, as the proxy writes it."""
    address, _, port = written.partition(":")
    words = [int(address[at : at + 8], 16) for at in range(0, len(address), 8)]
    text = socket.inet_ntop(family, struct.pack(f"={len(words)}I", *words)).removeprefix("::ffff:")
    return f"[{text}]:{int(port, 16)}" if ":" in text else f"{text}:{int(port, 16)}"


class Hangups:
    """The streams that are open, and those of them that were hung up."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setblocking(False)
        self._socket.bind(f"\0hf2triton-hangups-{os.getppid()}")
        self._numbers = itertools.count(1)
        self._open: set[int] = set()

    def open(self) -> int:
        """The number, not 0, of one more stream."""
        number = next(self._numbers)
        self._open.add(number)
        return number

    def close(self, stream: int) -> None:
        """Forgets ``stream``."""
        self._open.discard(stream)

    def hung_up(self, stream: int) -> bool:
        """Whether postprocessing has said that nobody takes ``stream`` any more."""
        while True:
            try:
                (number,) = _STREAM.unpack(self._socket.recv(_STREAM.size))
            except BlockingIOError:
                return stream not in self._open
            self._open.discard(number)
