"""The stream of a container's output, as the engine's attach call sends it.

Format: https://docs.docker.com/reference/api/engine/version/v1.41/, "Attach to a container". docker-py's own reader
loses the bytes that arrive together with the response's header.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from queue import Empty, SimpleQueue
from threading import Thread
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from requests import Response

STDOUT, STDERR = 1, 2
_HEADER = struct.Struct(">BxxxL")


def frames(response: Response, silence_s: float) -> Iterator[tuple[int, bytes]]:
    """The frames as (stream, bytes) until the output ends or breaks; empty bytes after ``silence_s`` of silence."""
    arrived: SimpleQueue[tuple[int, bytes] | None] = SimpleQueue()
    Thread(target=_read, args=(response, arrived), daemon=True).start()
    while True:
        try:
            frame = arrived.get(timeout=silence_s)
        except Empty:
            frame = (STDOUT, b"")
        if frame is None:
            return
        yield frame


def _read(response: Response, arrived: SimpleQueue[tuple[int, bytes] | None]) -> None:
    from urllib3.exceptions import HTTPError

    try:
        with response:
            while response.ok and (header := response.raw.read(_HEADER.size)):
                stream, size = _HEADER.unpack(header)
                arrived.put((stream, response.raw.read(size)))
    except (HTTPError, OSError, struct.error):
        pass  # it broke: the container's state will tell why
    finally:
        arrived.put(None)
