"""The stream of a container's output, as the engine's attach call sends it.

Format: https://docs.docker.com/reference/api/engine/version/v1.41/, "Attach to a container". docker-py's own reader
loses what arrives together with the response's header.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from threading import Thread
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from requests import Response

STDOUT, STDERR = 1, 2
_HEADER = struct.Struct(">BxxxL")


@dataclass(frozen=True)
class Frame:
    """Bytes of one of the two streams; no bytes: there was nothing for a while."""

    stream: int
    data: bytes


def frames(response: Response, silence_s: float) -> Iterator[Frame]:
    """Frames until the stream ends or breaks; an empty one after every ``silence_s`` seconds without any."""
    arrived: SimpleQueue[Frame | None] = SimpleQueue()
    Thread(target=_read, args=(response, arrived), daemon=True).start()
    while True:
        try:
            frame = arrived.get(timeout=silence_s)
        except Empty:
            frame = Frame(STDOUT, b"")
        if frame is None:
            return
        yield frame


def _read(response: Response, arrived: SimpleQueue[Frame | None]) -> None:
    from urllib3.exceptions import HTTPError

    try:
        with response:
            while response.ok and (header := response.raw.read(_HEADER.size)):
                stream, size = _HEADER.unpack(header)
                arrived.put(Frame(stream, response.raw.read(size)))
    except (HTTPError, OSError, struct.error):
        pass  # it broke: the container's state will tell why
    finally:
        arrived.put(None)
