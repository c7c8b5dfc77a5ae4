"""The playground asks the server that it should, hands on each piece as it comes, and stays within its bounds."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from contextlib import aclosing
from pathlib import Path
from typing import Any, ClassVar

import pytest

from include.host import services
from include.host.ports import free_ports
from include.live import playground
from include.live.playground import Question, Server, answer, candidates, server_of
from include.releases.records import ReleaseStore
from include.settings import Settings
from include.triton.servers import Ports, ServerPlan, ServerRecord
from tests.support.web import Handler, serving

ADDRESS = "http://127.0.0.1:8000"


class Model(Handler):
    """Tells what it was asked, in pieces."""

    asked: ClassVar[list[tuple[str, dict[str, Any]]]] = []
    last: ClassVar[threading.Event] = threading.Event()
    left: ClassVar[threading.Event] = threading.Event()

    def do_GET(self) -> None:
        self.reply(status=200 if self.path == "/v2/health/ready" else 404)

    def do_POST(self) -> None:
        body = json.loads(self.body())
        self.asked.append((self.path, body))
        match body["text_input"]:
            case "refuse":
                self.reply({"error": "max_tokens is <too> large"}, status=400)
            case "break":
                self.stream([json.dumps({"text_output": "a"}), json.dumps({"error": "the engine died"})])
            case "long":
                self.stream(json.dumps({"text_output": "a" * 1000}) for _ in range(100))
            case "go on":
                try:
                    self.stream(self._endlessly())
                except OSError:
                    self.left.set()
                    raise
            case "wait":
                self.stream(self._slowly())
            case _ if self.path.endswith("_stream"):
                self.stream(json.dumps({"text_output": piece}) for piece in ("one ", "zwei\u2028", "three"))
            case _:
                self.reply({"text_output": "one zwei\u2028three"})

    def _endlessly(self) -> Iterator[str]:
        while not self.last.wait(0.01):
            yield json.dumps({"text_output": "more"})

    def _slowly(self) -> Iterator[str]:
        yield json.dumps({"text_output": "first"})
        self.last.wait(30)
        yield json.dumps({"text_output": "last"})


@pytest.fixture
def url() -> Iterator[str]:
    Model.asked.clear()
    Model.last.clear()
    with serving(Model) as web:
        yield f"http://127.0.0.1:{web.server_port}/v2/models/chat"
        Model.last.set()


def ask(url: str, prompt: str = "hello", *, streams: bool = True, **options: Any) -> list[dict[str, str]]:
    async def collect() -> list[str]:
        return [
            event
            async for event in answer(Server(url, streams, "the live address"), Question(prompt=prompt, **options))
        ]

    events = asyncio.run(collect())
    assert all(event.startswith("data: ") and event.endswith("\n\n") for event in events)
    return [json.loads(event.removeprefix("data: ")) for event in events]


def test_pieces_come_one_by_one(url: str) -> None:
    assert ask(url) == [{"text": "one "}, {"text": "zwei\u2028"}, {"text": "three"}]
    assert Model.asked == [
        ("/v2/models/chat/generate_stream", {"text_input": "hello", "max_tokens": 128, "stream": True, "top_k": 1})
    ]


def test_a_release_that_does_not_stream_answers_whole(url: str) -> None:
    assert ask(url, streams=False, temperature=0.5, max_tokens=7) == [{"text": "one zwei\u2028three"}]
    ((path, body),) = Model.asked
    assert path == "/v2/models/chat/generate"
    assert body == {"text_input": "hello", "max_tokens": 7, "stream": False, "temperature": 0.5, "top_p": 1.0}


def test_a_piece_is_handed_on_before_the_next_is_there(url: str) -> None:
    async def first() -> str:
        async with aclosing(answer(Server(url, True, "the live address"), Question(prompt="wait"))) as events:
            return await anext(events)

    assert json.loads(asyncio.run(first()).removeprefix("data: ")) == {"text": "first"}
    assert not Model.last.is_set()


def test_a_reader_who_leaves_ends_the_request(url: str) -> None:
    async def leave() -> None:
        events = answer(Server(url, True, "the live address"), Question(prompt="go on"))
        await anext(events)
        await events.aclose()

    asyncio.run(leave())
    assert Model.left.wait(30)


def test_a_refusal_is_told_in_the_servers_words(url: str) -> None:
    for streams in (True, False):
        (event,) = ask(url, "refuse", streams=streams)
        assert event["error"].startswith("The server refuses the question.")
        assert "max_tokens is <too> large" in event["error"]


def test_an_error_in_the_stream_ends_it(url: str) -> None:
    first, last = ask(url, "break")
    assert first == {"text": "a"}
    assert "the engine died" in last["error"]


def test_a_server_that_is_gone_is_named() -> None:
    (port,) = free_ports(1)
    (event,) = ask(f"http://127.0.0.1:{port}/v2/models/chat")
    assert event["error"].startswith("This web server gets no answer from the live address (ConnectError")


def test_an_answer_without_end_is_cut_off(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(playground, "_MOST_BYTES", 5000)
    *pieces, last = ask(url, "long")
    assert len(pieces) < 6
    assert "longer than 5000 bytes" in last["error"]


def test_an_answer_that_takes_too_long_is_cut_off(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(playground, "_WHOLE_S", 0.5)
    assert ask(url, "wait")[-1] == {"error": "The answer was cut off after 0.5 s."}


@pytest.fixture
def releases(tmp_path: Path) -> ReleaseStore:
    return ReleaseStore(tmp_path / "releases")


def a_release(releases: ReleaseStore, name: str, *, live: bool = True, **request: Any) -> Any:
    made = releases.open(f"org--{name}", target="openvino", repository=f"r-{name}-{live}", chain={}, request=request)
    if live:
        releases.make_live(made)
        releases.record_promotion(made.served_name)
    return made


def a_candidate(root: Path, repository: str, port: int, key: str = "candidate-manual__1") -> None:
    plan = ServerPlan(
        argv=("x",),
        target="openvino",
        repository=root / "repositories" / repository,
        ports=Ports(http=port, grpc=1, metrics=2),
    )
    services.write(ServerRecord(plan=plan, log=root / "log"), root / "servers" / f"{key}.json")


def test_the_live_model_is_asked_by_its_name(releases: ReleaseStore) -> None:
    a_release(releases, "chat", streaming=True)
    server = server_of("chat", "live", ADDRESS, releases, ())
    assert server is not None
    assert (server.url, server.streams) == (f"{ADDRESS}/v2/models/chat", True)
    assert server_of("other", "live", ADDRESS, releases, ()) is None


def test_a_candidate_is_asked_on_its_own_ports(releases: ReleaseStore, tmp_path: Path, url: str) -> None:
    port = int(url.split(":")[2].split("/")[0])
    a_release(releases, "chat", live=False)
    a_candidate(tmp_path, "r-chat-False", port)
    a_candidate(tmp_path, "of-no-release", port, "candidate-manual__2")
    (found,) = candidates(Settings(artifacts=tmp_path), releases)
    assert (found.key, str(found.release)) == ("candidate-manual__1", "org--chat/1")
    server = server_of("chat", found.key, ADDRESS, releases, (found,))
    assert server is not None
    assert server.url == f"http://127.0.0.1:{port}/v2/models/ensemble"


def test_a_candidate_answers_only_under_its_own_name(releases: ReleaseStore, tmp_path: Path, url: str) -> None:
    a_release(releases, "chat", live=False)
    a_release(releases, "other", live=False)
    a_candidate(tmp_path, "r-chat-False", int(url.split(":")[2].split("/")[0]))
    running = candidates(Settings(artifacts=tmp_path), releases)
    assert server_of("other", "candidate-manual__1", ADDRESS, releases, running) is None
    assert server_of("chat", "../../candidate", ADDRESS, releases, running) is None


def test_a_candidate_that_does_not_answer_or_is_damaged_is_none(releases: ReleaseStore, tmp_path: Path) -> None:
    (port,) = free_ports(1)
    a_release(releases, "chat", live=False)
    a_candidate(tmp_path, "r-chat-False", port)
    (tmp_path / "servers" / "candidate-damaged.json").write_text("{")
    assert candidates(Settings(artifacts=tmp_path), releases) == ()
    assert len(releases.damage) == 1
