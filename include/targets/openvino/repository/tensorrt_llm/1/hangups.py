"""Which streamed answers nobody takes any more.

Triton does not tell a running model inside an ensemble that the client has gone
(github.com/triton-inference-server/server/issues/6739), only the steps after it. So postprocessing, which gets every
piece, passes it on through a socket named after the server's process, the parent of both.
"""

from __future__ import annotations

import itertools
import os
import socket
import struct

_STREAM = struct.Struct("<q")


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
