"""Files of other people: what is no regular file is refused at once, and JSON has limits."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from include.reading import Limit, open_regular, parse_json, read_bytes, read_json, read_lines, read_text
from include.settings import PROJECT


def _socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(str(path))


NO_FILES: dict[str, tuple[Callable[[Path], object], str]] = {
    "fifo": (os.mkfifo, "a FIFO"),
    "socket": (_socket, "a socket"),
    "device": (lambda path: path.symlink_to("/dev/zero"), "a device"),
    "terminal": (lambda path: path.symlink_to("/dev/tty"), "a device"),
    "directory": (Path.mkdir, "Is a directory"),
    "endless link": (lambda path: path.symlink_to(path.name), "Too many levels of symbolic links"),
    "dangling link": (lambda path: path.symlink_to("gone"), "No such file"),
    "nothing": (lambda path: None, "No such file"),
}


@pytest.mark.parametrize(("make", "words"), NO_FILES.values(), ids=NO_FILES)
def test_opens_regular_files_only_and_waits_for_nothing(
    short_path: Path, make: Callable[[Path], object], words: str
) -> None:
    make(short_path / "x")
    with pytest.raises(OSError, match=words) as caught:
        open_regular(short_path / "x")
    assert caught.value.filename == str(short_path / "x")


def test_a_link_can_be_refused(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("text")
    (tmp_path / "link").symlink_to("x")
    assert read_bytes(tmp_path / "link", 4) == b"text"
    with pytest.raises(OSError, match="a link"):
        read_bytes(tmp_path / "link", 4, follow=False)


def test_reads_no_more_than_the_limit(tmp_path: Path) -> None:
    with (tmp_path / "x").open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(OSError, match="larger than 10 bytes"):
        read_bytes(tmp_path / "x", 10)


def test_text_is_utf_8(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"\xff")
    with pytest.raises(ValueError, match="utf-8"):
        read_text(tmp_path / "x", 10)


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("[" * 100_000 + "]" * 100_000, id="deep list"),
        pytest.param('{"a":' * 100_000 + "1" + "}" * 100_000, id="deep object"),
        pytest.param("1" * 5000, id="5,000 digits"),
        pytest.param("[NaN]", id="nan"),
        pytest.param("-Infinity", id="infinity"),
        pytest.param('"\\ud800"', id="half a pair"),
        pytest.param("", id="nothing"),
        pytest.param("{} {}", id="two"),
        pytest.param(b'"\xff"', id="not utf-8"),
    ],
)
def test_json_that_no_writer_makes_is_a_value_error(text: str | bytes) -> None:
    with pytest.raises(ValueError, match="."):
        parse_json(text)


def test_data_may_have_nan() -> None:
    assert parse_json('{"text": "x", "score": NaN}', finite=False)["text"] == "x"


def test_reads_a_json_file(tmp_path: Path) -> None:
    (tmp_path / "x").write_text('{"a": [1, 2.5, null]}')
    assert read_json(tmp_path / "x", 100) == {"a": [1, 2.5, None]}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        pytest.param(b"1\n" * 100, "larger than 99 bytes", id="large"),
        pytest.param(b"1\n" + b"2" * 50, "a line of more than 20 bytes", id="long line"),
        pytest.param(b"a\nb\0c\n", "zero byte", id="binary"),
        pytest.param(b"a\n\xff\n", "utf-8", id="latin"),
    ],
)
def test_lines_are_of_text_and_bounded(tmp_path: Path, content: bytes, words: str) -> None:
    (tmp_path / "x").write_bytes(content)
    with pytest.raises((OSError, ValueError), match=words):
        list(read_lines(tmp_path / "x", limit=99, line_limit=20))


def test_the_docs_have_every_limit() -> None:
    page = (PROJECT / "docs" / "how-it-works.md").read_text().partition("## Limits")[2]
    for limit in Limit:
        told = f"{limit >> 20} MiB" if limit % (1 << 20) == 0 else f"{limit >> 10} KiB"
        assert f"| {told if limit != Limit.TEXT_FILE else '512 MB'} |" in page
