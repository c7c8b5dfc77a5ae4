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
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path

_STREAM = struct.Struct("<q")
_CONNECTION = "triton_hf2triton_connection"
# The kernel's questions about one socket, sock_diag(7): both ends of it, and no interface or cookie.
_QUESTION, _ENDS, _ANY_COOKIE = struct.Struct("=IHHIIBBBxI"), struct.Struct("!HH16s16s"), struct.pack("=Iq", 0, -1)
_SOCK_DIAG, _BY_FAMILY, _REQUEST, _ALL_STATES = 4, 20, 1, 0xFFFFFFFF
_ANSWER = struct.Struct("=IHHIIBB")
_ESTABLISHED = 1


def connection_of(parameters: str) -> str:
    """Both ends of the client's connection to the proxy, out of a request's parameters; empty without a proxy."""
    return str(json.loads(parameters or "{}").get(_CONNECTION, ""))


class Connections:
    """The TCP connections of this host, by their other end and their own.

    The kernel is asked for one at a time: to read its table of all took 8 ms of the engine's thread. A server in a
    container of its own network sees none of the proxy, and so takes every client for waiting.
    """

    def __init__(self) -> None:
        self._told_apart = False

    def lacks(self, client: str) -> bool:
        """Whether the client has closed its connection, as far as that can be known: in a container it cannot."""
        try:
            (theirs, their_port), (ours, our_port) = map(_end, client.split())
            if theirs.is_link_local:  # the kernel finds it only by its interface
                return False
            established = _is_established(_ENDS.pack(our_port, their_port, ours.packed, theirs.packed), ours.version)
        except (OSError, ValueError, struct.error):  # no such ends, or a kernel without this interface
            return False
        self._told_apart = self._told_apart or established
        return self._told_apart and not established


def _end(written: str) -> tuple[IPv4Address | IPv6Address, int]:
    address, _, port = written.rpartition(":")
    return ip_address(address.strip("[]")), int(port)


def _is_established(ends: bytes, version: int) -> bool:
    family = socket.AF_INET if version == 4 else socket.AF_INET6
    size = _QUESTION.size + len(ends) + len(_ANY_COOKIE)
    header = (size, _BY_FAMILY, _REQUEST, 0, 0)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _SOCK_DIAG) as kernel:
        kernel.send(_QUESTION.pack(*header, family, socket.IPPROTO_TCP, 0, _ALL_STATES) + ends + _ANY_COOKIE)
        _, kind, *_, state = _ANSWER.unpack_from(kernel.recv(4096))
    return bool(kind == _BY_FAMILY and state == _ESTABLISHED)


def address() -> str:
    """The socket on which postprocessing tells the engine of the same Triton, also by its own code.

    Containers that share the host's network have process numbers of their own, and the same ones.
    """
    return f"\0hf2triton-hangups-{Path('/proc/self/ns/pid').stat().st_ino}-{os.getppid()}"


class Hangups:
    """The streams that are open, and those of them that were hung up."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setblocking(False)
        self._socket.bind(address())
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
