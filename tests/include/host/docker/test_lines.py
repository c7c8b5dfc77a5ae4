"""Output as lines: what a person wants to read, when it can be read."""

from __future__ import annotations

import pytest

from include.host.docker.lines import PROGRESS_S, Lines


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def log() -> list[str]:
    return []


@pytest.fixture
def lines(log: list[str], clock: Clock) -> Lines:
    return Lines(log.append, clock)


def test_a_line_is_logged_when_it_ends(lines: Lines, log: list[str]) -> None:
    lines.feed(b"loading")
    assert log == []
    lines.feed(b" done\nnext")
    assert log == ["loading done"]


def test_windows_line_ends_cut_anywhere_are_one_end(lines: Lines, log: list[str]) -> None:
    lines.feed(b"one\r")
    lines.feed(b"\ntwo\r\n")
    assert log == ["one", "two"]


def test_blank_lines_are_left_out(lines: Lines, log: list[str]) -> None:
    lines.feed(b"\n  \r\n\n")
    lines.close()
    assert log == []


def test_a_character_cut_in_two_stays_whole(lines: Lines, log: list[str]) -> None:
    for byte in "à la\n".encode():
        lines.feed(bytes([byte]))
    assert log == ["à la"]


def test_bytes_that_are_no_text_do_not_stop_the_log(lines: Lines, log: list[str]) -> None:
    lines.feed(b"\xff\xfe ok\n")
    assert log == ["�� ok"]


@pytest.mark.parametrize("form", ["{}%\r", "\r{}%"], ids=["ends in a return", "starts with a return"])
def test_a_progress_bar_shows_its_state_at_a_readable_rate(
    lines: Lines, log: list[str], clock: Clock, form: str
) -> None:
    steps = 40
    for step in range(steps):
        lines.feed(form.format(step).encode())
        clock.now += PROGRESS_S / 10
    assert 3 <= len(log) <= 4
    assert all(line.endswith("%") for line in log)
    assert len(set(log)) == len(log)


def test_a_progress_bar_that_ends_shows_only_its_end(lines: Lines, log: list[str]) -> None:
    lines.feed(b"10%\r50%\r100%\nwritten\n")
    assert log == ["100%", "written"]


def test_text_without_an_end_shows_after_a_while(lines: Lines, log: list[str], clock: Clock) -> None:
    lines.feed(b"compiling, this takes a while ...")
    clock.now += PROGRESS_S
    lines.feed(b"")
    assert log == ["compiling, this takes a while ..."]
    lines.feed(b" done\n")
    assert log[1:] == [" done"]


def test_what_is_left_shows_at_the_end(lines: Lines, log: list[str]) -> None:
    lines.feed(b"10%\r")
    lines.close()
    assert log == ["10%"]


def test_what_was_seen_is_left_out_when_the_stream_comes_again(lines: Lines, log: list[str]) -> None:
    lines.feed(b"one\ntw")
    lines.rewind()
    for chunk in (b"on", b"e\nt", b"wo\nthr"):
        lines.feed(chunk)
    lines.rewind()
    lines.feed(b"one\ntwo\nthree\n")
    assert log == ["one", "two", "three"]
