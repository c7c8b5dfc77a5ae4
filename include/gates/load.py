"""A constant load on Triton's generate endpoint, and the times that its clients see.

Ours, as aiperf takes 16 CPU seconds to start each run and 0.4 of a core of the host that it measures, and cannot
alternate between two servers; benchmarks/serving.py holds the two against each other (docs/serving-figures.md). By
aiohttp, which takes a quarter of the CPU time of httpx for each part of a stream, from a host that the engine fills.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from statistics import median
from time import perf_counter
from typing import TYPE_CHECKING, Any, Literal

from include.gates.verdict import Load, Percentiles
from include.triton.client import TIMEOUT_S, Client, Endpoint, NoAnswer, events, path_of, read_answer

if TYPE_CHECKING:
    from aiohttp import ClientSession


@dataclass(frozen=True)
class Workload:
    """The requests of the clients: greedy answers of exactly ``max_tokens`` tokens, streamed or whole."""

    prompts: tuple[str, ...]
    max_tokens: int
    stream: bool

    def bodies(self, count: int) -> list[dict[str, Any]]:
        """Requests with the prompts in turn. Each starts as none before it did: no KV cache knows it yet."""
        lengths = {"max_tokens": self.max_tokens, "min_tokens": self.max_tokens, "return_num_output_tokens": True}
        texts = (f"({secrets.token_hex(3)}) {prompt}" for prompt in islice(cycle(self.prompts), count))
        return [{"text_input": text, "top_k": 1, "stream": self.stream, **lengths} for text in texts]


@dataclass(frozen=True)
class Timing:
    """One answer: its tokens as the endpoint counts them, seconds from request to end and, streamed, first token."""

    tokens: int
    latency_s: float
    first_s: float | None

    @property
    def between_s(self) -> float | None:
        """Mean time between tokens: the inter-token latency of aiperf and genai-perf."""
        if self.first_s is None or self.tokens < 2:
            return None
        return (self.latency_s - self.first_s) / (self.tokens - 1)


@dataclass(frozen=True)
class Burst:
    """The results of a burst of requests, ``seconds`` from the first one's start to the last one's end."""

    seconds: float
    timings: tuple[Timing, ...]
    errors: tuple[NoAnswer, ...]

    @property
    def tokens(self) -> int:
        """Tokens of all answers."""
        return sum(timing.tokens for timing in self.timings)

    @property
    def tokens_per_s(self) -> float:
        """Of all clients together."""
        return self.tokens / self.seconds


Ask = Callable[["ClientSession", dict[str, Any]], Awaitable[Timing | NoAnswer]]
"""Sends one request of a `Workload`, and times its answer."""


def streams(endpoint: Endpoint) -> bool:
    """True if the endpoint can stream an answer token by token. Raises `NoAnswer`."""
    with Client.open(endpoint) as client:
        answer = client.get(path_of("config"))
    return bool(read_answer(answer.text, answer.status_code)["model_transaction_policy"]["decoupled"])


def burst(endpoint: Endpoint, bodies: Sequence[dict[str, Any]], concurrency: int, ask: Ask | None = None) -> Burst:
    """Sends all requests from ``concurrency`` clients, each its next one as soon as it has its answer.

    ``ask`` sends one in the form of another API.
    """
    return asyncio.run(_burst(endpoint, bodies, concurrency, ask or _ask))


def load_of(server: Literal["candidate", "live"], concurrency: int, bursts: Sequence[Burst]) -> Load:
    """The figures of some bursts on one server; the tokens/s are those of the median burst."""
    timings = [timing for burst in bursts for timing in burst.timings]
    failures = sum(len(burst.errors) for burst in bursts)
    tokens, seconds = sum(burst.tokens for burst in bursts), sum(burst.seconds for burst in bursts)
    return Load(
        server=server,
        concurrency=concurrency,
        requests=len(timings) + failures,
        failures=failures,
        output_tokens=tokens,
        seconds=seconds,
        output_tokens_per_s=median(burst.tokens_per_s for burst in bursts),
        requests_per_s=len(timings) / seconds,
        latency_ms=_percentiles([timing.latency_s for timing in timings]),
        ttft_ms=_percentiles([timing.first_s for timing in timings]),
        itl_ms=_percentiles([timing.between_s for timing in timings]),
    )


async def _burst(endpoint: Endpoint, bodies: Sequence[dict[str, Any]], concurrency: int, ask: Ask) -> Burst:
    from aiohttp import ClientSession, ClientTimeout, TCPConnector

    patience = ClientTimeout(total=None, sock_connect=TIMEOUT_S, sock_read=TIMEOUT_S)
    async with ClientSession(endpoint.url, timeout=patience, connector=TCPConnector(limit=concurrency)) as http:
        waiting = iter(bodies)

        async def client() -> list[Timing | NoAnswer]:
            return [await ask(http, body) for body in waiting]

        start = perf_counter()
        answers = [answer for told in await asyncio.gather(*(client() for _ in range(concurrency))) for answer in told]
        seconds = perf_counter() - start
    return Burst(
        seconds,
        tuple(answer for answer in answers if isinstance(answer, Timing)),
        tuple(answer for answer in answers if isinstance(answer, NoAnswer)),
    )


async def _ask(http: ClientSession, body: dict[str, Any]) -> Timing | NoAnswer:
    received = await post(http, path_of("generate_stream" if body["stream"] else "generate"), body)
    if isinstance(received, NoAnswer):
        return received
    try:
        tokens = _tokens(received.text, received.status)
    except NoAnswer as error:
        return error
    return Timing(tokens, received.last_s, received.first_s if body["stream"] else None)


@dataclass(frozen=True)
class Received:
    """A response, and the seconds from its request to its first and its last part."""

    status: int
    text: str
    first_s: float
    last_s: float


async def post(http: ClientSession, path: str, body: dict[str, Any]) -> Received | NoAnswer:
    """Sends a request; of its response nothing is read before the end, to take no time from the others."""
    from aiohttp import ClientError

    parts: list[tuple[float, bytes]] = []
    sent = perf_counter()
    try:
        async with http.post(path, json=body) as answer:
            async for part in answer.content.iter_any():
                parts.append((perf_counter() - sent, part))
    except (ClientError, TimeoutError) as error:
        return NoAnswer(f"{type(error).__name__}: {error}")
    text = b"".join(part for _, part in parts).decode()
    if not parts:
        return NoAnswer(f"HTTP {answer.status}, and nothing else")
    return Received(answer.status, text, first_s=parts[0][0], last_s=parts[-1][0])


def _tokens(text: str, status: int) -> int:
    """Tokens of an answer: of its one response, or of all that were streamed."""
    responses = [read_answer(response, status) for response in events(text) or [text]]
    if not all("num_output_tokens" in response for response in responses):
        raise NoAnswer("the endpoint does not count its tokens (num_output_tokens)")
    return sum(int(response["num_output_tokens"]) for response in responses)


def _percentiles(seconds: Sequence[float | None]) -> Percentiles | None:
    import numpy as np

    known = [1000 * value for value in seconds if value is not None]
    if not known:
        return None
    cuts: list[float] = np.percentile(known, (50, 90, 99)).tolist()
    return Percentiles(p50=cuts[0], p90=cuts[1], p99=cuts[2])
