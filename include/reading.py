"""Reading what others wrote: regular files only, of bounded size, and JSON of bounded depth.

This module travels with the stage programs: it imports nothing of this project.
"""

from __future__ import annotations

import errno
import os
import stat
from codecs import BOM_UTF8
from collections.abc import Iterator
from enum import IntEnum
from io import BufferedReader
from pathlib import Path
from typing import Any

from pydantic_core import from_json

_KINDS = {
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFLNK: "a link",
}


class Limit(IntEnum):
    """The most bytes that are read of each kind of file; docs/how-it-works.md has the same table."""

    SETTINGS = 8 << 20  # config.json and its like: the largest known have 2 MB
    TOKENIZER = 64 << 20  # a vocabulary of 256,000 tokens has 35 MB
    INDEX = 32 << 20  # model.safetensors.index.json: 9 MB for 90,000 tensors
    HEADER = 16 << 20  # of a safetensors file
    TEXT_FILE = 512_000_000  # calibration text: more than any calibration reads
    TEXT_LINE = 16 << 20  # one document of it
    HUB_ANSWER = 64 << 20  # a listing of 200,000 files
    CATALOGUE = 128 << 10  # a thousand entries; its parser takes a second for 100 kB
    RECORD = 16 << 20  # a record of the artifact store


def open_regular(path: Path, *, follow: bool = True) -> BufferedReader:
    """The file ``path``, open for reading; it never waits. A link counts as its target only if ``follow``.

    Raises:
        OSError: it cannot be opened, or is a directory, a FIFO, a socket or a device.
    """
    flags = os.O_NONBLOCK | os.O_NOCTTY | (0 if follow else os.O_NOFOLLOW)
    _require_regular(path, path.stat() if follow else path.lstat())  # a device may act on being opened
    file = open(path, "rb", opener=lambda name, mode: os.open(name, mode | flags))  # noqa: SIM115
    try:
        _require_regular(path, os.fstat(file.fileno()))
    except OSError:
        file.close()
        raise
    return file


def _require_regular(path: Path, found: os.stat_result) -> None:
    kind = stat.S_IFMT(found.st_mode)
    if kind == stat.S_IFDIR:
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if kind != stat.S_IFREG:
        raise OSError(errno.EINVAL, f"It is {_KINDS.get(kind, 'something else')}, not a regular file", str(path))


def read_bytes(path: Path, limit: int, *, follow: bool = True) -> bytes:
    """The content of a regular file; OSError for any other, and for one of more than ``limit`` bytes."""
    with open_regular(path, follow=follow) as file:
        content = file.read(limit + 1)
    if len(content) > limit:
        raise OSError(errno.EFBIG, f"It is larger than {limit:,} bytes", str(path))
    return content


def read_text(path: Path, limit: int) -> str:
    """The text of a file; OSError as for `read_bytes`, ValueError where it is not UTF-8."""
    return read_bytes(path, limit).decode("utf-8")


def read_lines(path: Path, limit: int = Limit.TEXT_FILE, line_limit: int = Limit.TEXT_LINE) -> Iterator[str]:
    """The lines of a text file, one after another; OSError as for `read_bytes`, also for a line beyond its limit.

    Raises:
        ValueError: a line is not UTF-8, or has a zero byte, as programs and pictures have.
    """
    with open_regular(path) as file:
        if os.fstat(file.fileno()).st_size > limit:
            raise OSError(errno.EFBIG, f"It is larger than {limit:,} bytes", str(path))
        if file.peek(len(BOM_UTF8)).startswith(BOM_UTF8):  # Windows' editors begin a text so
            file.seek(len(BOM_UTF8))
        while line := file.readline(line_limit + 1):
            if len(line) > line_limit:
                raise OSError(errno.EFBIG, f"It has a line of more than {line_limit:,} bytes", str(path))
            if b"\0" in line:
                raise ValueError("it has a zero byte, so it is no text")
            yield line.decode("utf-8")


def read_json(path: Path, limit: int) -> Any:  # noqa: ANN401
    """The JSON of a file; OSError as for `read_bytes`, ValueError as for `parse_json`."""
    return parse_json(read_bytes(path, limit))


def parse_json(text: str | bytes, *, finite: bool = True) -> Any:  # noqa: ANN401
    """The value of a JSON text. Python's own parser takes NaN, and ends in RecursionError at a thousand levels.

    Raises:
        ValueError: no JSON, more than 200 levels, an integer of more than 4,300 digits, half a surrogate pair; with
            ``finite`` also NaN and infinity.
    """
    return from_json(text, allow_inf_nan=not finite)
