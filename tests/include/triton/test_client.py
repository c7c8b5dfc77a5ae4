from __future__ import annotations

from include.triton.client import events


def test_only_a_line_feed_ends_an_event() -> None:
    assert events('data: {"text": "la\u2028la"}\n\ndata: {}\n\n') == [' {"text": "la\u2028la"}', " {}"]
