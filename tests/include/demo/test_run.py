"""What the demo asks once a run has ended."""

from __future__ import annotations

from itertools import count
from pathlib import Path

import pytest

from include.demo import run
from include.settings import Settings
from tests.support.web import Handler, serving


def test_a_chat_waits_for_the_service_that_the_promotion_has_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "_POLL_S", 0)
    asked = count(1)

    class Live(Handler):
        def do_POST(self) -> None:
            self.body()
            if next(asked) < 3:
                self.reply({"error": {"message": "no service yet"}}, 503)
            else:
                self.reply({"choices": [{"message": {"content": "red"}}]})

    with serving(Live) as server:
        settings = Settings(artifacts=tmp_path, live_http_port=server.server_port)
        answer, line = run.ask_chat("one", settings)
    assert (answer, next(asked)) == ("red", 4)
    assert line.startswith(f"curl -s http://127.0.0.1:{server.server_port}/v1/chat/completions -d '")
