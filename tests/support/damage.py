"""Things that can lie where a small file is expected."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path

Make = Callable[[Path], None]


def _fifo(path: Path) -> None:
    os.mkfifo(path)


def _socket(path: Path) -> None:
    # A socket's name has at most 107 bytes, so it is made where it lies.
    here = os.open(path.parent, os.O_RDONLY)
    try:
        with socket.socket(socket.AF_UNIX) as end:
            end.bind(f"/proc/self/fd/{here}/{path.name}")
    finally:
        os.close(here)


def _to_outside(path: Path) -> None:
    outside = path.parent / "elsewhere"
    outside.write_text("{}")
    path.symlink_to(outside)


def _huge(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(1 << 34)


def _text(text: str | bytes) -> Make:
    def make(path: Path) -> None:
        path.write_bytes(text.encode() if isinstance(text, str) else text)

    return make


NOT_A_FILE: dict[str, Make] = {
    "fifo": _fifo,
    "socket": _socket,
    "device": lambda path: path.symlink_to("/dev/zero"),
    "terminal": lambda path: path.symlink_to("/dev/tty"),
    "directory": lambda path: path.mkdir(),
    "full directory": lambda path: (path / "in").mkdir(parents=True),
    "dangling link": lambda path: path.symlink_to("nowhere"),
    "loop": lambda path: path.symlink_to(path.name),
    "link to outside": _to_outside,
    "huge": _huge,
}
"""Each makes something at a path that no reader must open, wait for or follow."""

NOT_A_RECORD: dict[str, Make] = {
    "empty": _text(""),
    "cut off": _text('{"model": "or'),
    "deep list": _text("[" * 100_000),
    "deep object": _text('{"a":' * 100_000),
    "no UTF-8": _text(b'{"model": "\xff\xfe"}'),
    "long number": _text('{"number": 1' + "0" * 5000 + "}"),
    "list": _text("[1, 2]"),
    "text": _text('"release"'),
    "null": _text("null"),
    "zeros": _text(b"\0" * 64),
    "other object": _text('{"kind": "recipe", "name": "../../bread"}'),
    "wrong types": _text('{"schema_version": [], "model": 7, "state": {}, "request": [], "name": null, "run": 1}'),
}
"""Each writes a file that holds no record."""
