"""The playground: one question to a live model or a candidate, and its answer piece by piece, within bounds."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

import httpx
from pydantic import BaseModel, ConfigDict, Field

from include.files import Damaged
from include.host import services
from include.host.ports import PLAIN_HTTP, http_url
from include.releases.records import Release, ReleaseStore
from include.report.models import Candidate
from include.settings import Settings
from include.triton.client import MODEL, NoAnswer, read_answer
from include.triton.hardening import LOOPBACK
from include.triton.servers import ServerRecord

LIVE = "live"
_CONNECT_S = 5.0
_WHOLE_S = 120.0
_MOST_BYTES = 4 << 20
_READY_S = 1.0


class Question(BaseModel):
    """One question. ``to`` is ``live``, or the key of a candidate. Temperature 0 asks for the most probable answer."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    prompt: str = Field(min_length=1, max_length=8000)
    max_tokens: int = Field(128, ge=1, le=1024)
    temperature: float = Field(0, ge=0, le=2)
    to: str = Field(LIVE, max_length=300)

    def body(self, *, streams: bool) -> dict[str, Any]:
        """The request to the generate endpoints."""
        chosen = {"temperature": self.temperature, "top_p": 1.0} if self.temperature else {"top_k": 1}
        return {"text_input": self.prompt, "max_tokens": self.max_tokens, "stream": streams, **chosen}


@dataclass(frozen=True)
class Server:
    """A server that can be asked, by the URL of its model. ``what`` names it in errors.

    ``options`` are those of the HTTP client: keys and trust, where the live address asks for them.
    """

    url: str
    streams: bool
    what: str
    options: Mapping[str, Any] = field(default_factory=lambda: {"trust_env": False, "verify": PLAIN_HTTP}, repr=False)


def candidates(settings: Settings, releases: ReleaseStore) -> tuple[Candidate, ...]:
    """The candidates that are ready and whose release is known; that is so from the first gate on."""
    by_repository = {release.repository: release for release in releases.every()}
    found = []
    for path in sorted((settings.artifacts / "servers").glob("candidate-*.json")):
        record = _record(settings, path.stem, releases)
        release = record and by_repository.get(record.repository.name)
        if record and release and _is_ready(record):
            url = http_url(LOOPBACK, record.ports.http)
            found.append(Candidate(path.stem, release.id, url, streams=_streams(release)))
    return tuple(found)


def server_of(
    name: str, to: str, address: str, releases: ReleaseStore, running: tuple[Candidate, ...]
) -> Server | None:
    """The server that a question goes to; None if there is none such of this name."""
    if to == LIVE:
        live = releases.lives().get(name)
        return Server(f"{address}/v2/models/{name}", _streams(live), f"the live address {address}") if live else None
    ids = {release.id for release in releases.of_name(name)}
    chosen = next((one for one in running if one.key == to and one.release in ids), None)
    if chosen is None:
        return None
    return Server(f"{chosen.url}/v2/models/{MODEL}", chosen.streams, f"the candidate at {chosen.url}")


async def answer(server: Server, question: Question) -> AsyncGenerator[str]:
    """The answer as server-sent events, ``{"text": ...}`` each, or at the end one ``{"error": ...}``.

    The request to the server ends with the iteration, so that a reader who leaves frees the engine.
    """
    until = asyncio.get_running_loop().time() + _WHOLE_S
    try:
        async with aclosing(_pieces(server, question)) as pieces:
            while (text := await _next(pieces, until)) is not None:
                yield _event("text", text)
    except TimeoutError:
        yield _event("error", f"The answer was cut off after {_WHOLE_S:g} s.")
    except NoAnswer as error:
        yield _event("error", f"The server refuses the question. {error}")
    except httpx.TransportError as error:
        where = f"{type(error).__name__}: {error}".removesuffix(": ")
        yield _event("error", f"This web server gets no answer from {server.what} ({where}).")


async def _next(pieces: AsyncGenerator[str], until: float) -> str | None:
    """The next piece; None after the last. Only the server's time counts, not that of a slow reader in between."""
    async with asyncio.timeout_at(until):
        return await anext(pieces, None)


async def _pieces(server: Server, question: Question) -> AsyncGenerator[str]:
    path = f"{server.url}/generate_stream" if server.streams else f"{server.url}/generate"
    limits = httpx.Timeout(_WHOLE_S, connect=_CONNECT_S)
    async with (
        httpx.AsyncClient(timeout=limits, **server.options) as client,
        client.stream("POST", path, json=question.body(streams=server.streams)) as response,
    ):
        framed = server.streams and response.status_code == httpx.codes.OK
        rest, size = b"", 0
        async for chunk in response.aiter_bytes():
            rest, size = rest + chunk, size + len(chunk)
            if size > _MOST_BYTES:
                raise NoAnswer(f"its answer is longer than {_MOST_BYTES} bytes")
            while framed and b"\n" in rest:
                line, _, rest = rest.partition(b"\n")
                for text in _text_of(line, response.status_code):
                    yield text
        if not framed:
            yield str(read_answer(rest.decode(errors="replace"), response.status_code).get("text_output", ""))


def _text_of(line: bytes, status: int) -> Iterator[str]:
    """The text in a line of an event stream, if it has one."""
    if line.startswith(b"data:"):
        yield str(read_answer(line.removeprefix(b"data:").decode(errors="replace"), status).get("text_output", ""))


def _event(kind: str, text: str) -> str:
    return f"data: {json.dumps({kind: text})}\n\n"


def _streams(release: Release) -> bool:
    return release.request.get("streaming") is True


def _record(settings: Settings, key: str, releases: ReleaseStore) -> ServerRecord | None:
    try:
        return services.read(settings.artifacts / "servers" / f"{key}.json", ServerRecord, releases.note)
    except Damaged as damage:  # the system refuses to read it
        releases.note(damage)
        return None


def _is_ready(record: ServerRecord) -> bool:
    """True if the candidate answers on loopback: a web server in another container cannot ask for its process."""
    url = http_url(LOOPBACK, record.ports.http)
    try:
        found = httpx.get(f"{url}/v2/health/ready", timeout=_READY_S, trust_env=False, verify=PLAIN_HTTP)
    except httpx.HTTPError:
        return False
    return found.status_code == httpx.codes.OK
