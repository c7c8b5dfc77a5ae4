"""What others put into a message can be shown everywhere."""

from __future__ import annotations

import pytest

from include.errors import UserError, printable


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        pytest.param("plain\n\ttext: ä é 漢", "plain\n\ttext: ä é 漢", id="text"),
        pytest.param("\x1b[31mred\x07\0", "\\x1b[31mred\\x07\\x00", id="a terminal's commands"),
        pytest.param("a\rb\u2028c\u202ed", "a\\rb\\u2028c\\u202ed", id="breaks and directions"),
        pytest.param("\ud800", "\\ud800", id="half a pair"),
    ],
)
def test_control_characters_are_escaped(text: str, shown: str) -> None:
    assert printable(text) == shown
    error = UserError(text, where=text, fix=text)
    assert (error.what, error.where, error.fix) == (shown, shown, shown)
    str(error).encode()


def test_a_long_text_loses_its_middle() -> None:
    shown = printable("begin" + "x" * 10**6 + "end")
    assert shown.startswith("begin")
    assert shown.endswith("end")
    assert len(shown) < 10_100
