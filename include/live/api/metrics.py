"""What the service tells Prometheus: how many requests, how many tokens, how long until the first of them."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest

from include.live.api.answers import Piece
from include.live.api.failures import ApiError
from include.live.api.replies import Reply

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_LABELS = ("model", "release")
# Seconds: from a small model on a GPU to a long prompt on a CPU.
_FIRST_TOKEN = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_REQUEST = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)


class Metrics:
    """The counts since the service started; a failed request has only its HTTP status, for it may name any model."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self.first_token = Histogram(
            "hf2triton_time_to_first_token_seconds",
            "From a request to the first token of its answer, if that streams",
            _LABELS,
            registry=self._registry,
            buckets=_FIRST_TOKEN,
        )
        self.duration = Histogram(
            "hf2triton_request_duration_seconds",
            "From a request to the end of its answer",
            _LABELS,
            registry=self._registry,
            buckets=_REQUEST,
        )
        self.prompt_tokens = self._counter("prompt_tokens", "Tokens of prompts", _LABELS)
        self.generated_tokens = self._counter("generated_tokens", "Tokens of answers", _LABELS)
        self._failed = self._counter("failed_requests", "Requests that were refused or broke off", ("code",))

    def _counter(self, name: str, said: str, labels: Sequence[str]) -> Counter:
        return Counter(f"hf2triton_{name}", said, labels, registry=self._registry)

    def failed(self, code: int) -> None:
        """Counts a request without an answer."""
        self._failed.labels(str(code)).inc()

    def text(self) -> bytes:
        """All counts in Prometheus's text format."""
        return generate_latest(self._registry)


class Stopwatch:
    """The times of one request, from now on."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._began = time.perf_counter()

    def first_token(self, reply: Reply) -> None:
        """The first piece of an answer that streams has come."""
        self._metrics.first_token.labels(*_of(reply)).observe(time.perf_counter() - self._began)

    def end(self, reply: Reply, pieces: Iterable[Piece]) -> None:
        """The answer has ended, or its client has gone; ``pieces`` are all of it, or the latest of each choice."""
        self._metrics.duration.labels(*_of(reply)).observe(time.perf_counter() - self._began)
        usage = reply.usage_of(pieces)
        self._metrics.prompt_tokens.labels(*_of(reply)).inc(usage["prompt_tokens"])
        self._metrics.generated_tokens.labels(*_of(reply)).inc(usage["completion_tokens"])

    def failed(self, error: ApiError) -> None:
        """The answer broke off."""
        self._metrics.failed(error.status)


def _of(reply: Reply) -> tuple[str, str]:
    return reply.model.name, reply.model.release
