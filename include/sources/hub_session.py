"""A session with the Hub about one repository: plain HTTP, no progress bars, no secrets in its log."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING

from include.errors import PipelineError, ToolError, TransientError
from include.files import Log
from include.reading import Limit
from include.redaction import without_secrets
from include.sources.hub_errors import hub_errors
from include.sources.hub_repo import Repo

if TYPE_CHECKING:
    import httpx2

REQUEST_TIMEOUT_S = 30.0
"""For requests that huggingface_hub sends without a timeout; a Hub that is silent must not hold a worker."""

SLOWEST_BYTES_PER_S = 1000
"""For a whole session, over `_SLOW_AFTER_S`: a Hub that sends a byte a second must not hold a worker, either."""

_SLOW_AFTER_S = 60.0
# Names of files are made of it.
_ETAG = re.compile(r'(W/)?"?[\w.+=:-]{1,200}"?')
_OFF = ("HF_HUB_DISABLE_XET", "HF_HUB_DISABLE_TELEMETRY")


@contextmanager
def hub_session(repo: Repo, log: Log = lambda _: None, largest: int = 0) -> Iterator[None]:
    """While entered, huggingface_hub logs lines to ``log`` and fails by the classes of `include.errors`.

    ``largest``: the size in bytes of the largest file that is asked for.
    """
    from huggingface_hub.utils import disable_progress_bars

    with (
        disable_progress_bars(),
        _plain_http(),
        _bounded(_Bounds(repo, largest + Limit.HUB_ANSWER)),
        _quiet("httpx2", "httpcore2"),
        _lines_to(log, repo.secrets),
        hub_errors(repo),
    ):
        yield


@contextmanager
def _plain_http() -> Iterator[None]:
    """No Xet: mirrors pass on its headers without having it, and plain HTTP resumes by Range everywhere.

    No telemetry: it would first ask which AI agents there are, at the old ``HF_ENDPOINT``, not at ``endpoint``.
    """
    from huggingface_hub import constants

    _limit_all_requests()
    before = {name: getattr(constants, name) for name in _OFF}
    vars(constants).update(dict.fromkeys(_OFF, True))
    try:
        yield
    finally:
        vars(constants).update(before)


@cache
def _limit_all_requests() -> None:
    """Gives every client that huggingface_hub makes from now on `_limit` and `_bound`, and else its own form."""
    import httpx2
    from huggingface_hub import get_session, set_client_factory

    own = get_session()
    hooks: dict[str, list[Callable[..., None]]] = {
        "request": [*own.event_hooks["request"], _limit],
        "response": [_bound],
    }
    set_client_factory(
        lambda: httpx2.Client(event_hooks=hooks, follow_redirects=own.follow_redirects, timeout=own.timeout)
    )


def _limit(request: httpx2.Request) -> None:
    """Sets the timeouts, in seconds, that the request leaves open; a client's default would not reach it.

    Unpacked, a compressed answer of a kilobyte can have a megabyte: none is asked for, and `_bound` takes none.
    """
    request.headers["Accept-Encoding"] = "identity"
    own = request.extensions.get("timeout", {})
    limits = {name: REQUEST_TIMEOUT_S for name in ("connect", "read", "write", "pool")}
    request.extensions["timeout"] = limits | {name: time for name, time in own.items() if time is not None}


class _Bounds:
    """The limits of a session: the bytes of one answer, and the least bytes a second of all of them."""

    def __init__(self, repo: Repo, most_bytes: int) -> None:
        self._repo = repo
        self._most_bytes = most_bytes
        self._since, self._received = time.monotonic(), 0

    def check(self, response: httpx2.Response) -> None:
        """Refuses headers that nobody needs who serves files."""
        if response.headers.get("Content-Encoding", "identity") != "identity":
            raise self._failure("an answer is compressed, which was not asked for")
        for name in ("ETag", "X-Linked-ETag"):
            if (etag := response.headers.get(name)) and not _ETAG.fullmatch(etag):
                raise self._failure(f"its header {name} is {etag[:80]!r}")

    def chunks(self, stream: Iterator[bytes]) -> Iterator[bytes]:
        """Passes on the body of one answer."""
        total = 0
        for chunk in stream:
            total += len(chunk)
            if total > self._most_bytes:
                raise self._failure(f"an answer has more than {self._most_bytes:,} bytes")
            self._check_speed(len(chunk))
            yield chunk

    def _check_speed(self, received: int) -> None:
        self._received += received
        seconds = time.monotonic() - self._since
        if seconds < _SLOW_AFTER_S:
            return
        if self._received < seconds * SLOWEST_BYTES_PER_S:
            raise TransientError(
                f"the Hub sent {self._received:,} bytes in {seconds:.0f} s",
                where=self._repo.url,
                fix="nothing to do if it passes; else check the network, or use another mirror",
            )
        self._since, self._received = time.monotonic(), 0

    def _failure(self, what: str) -> PipelineError:
        return ToolError(
            f"the endpoint does not answer like a Hub: {what}",
            where=self._repo.url,
            fix="check the endpoint's address, and that no proxy answers in its place",
        )


_sessions: list[_Bounds] = []
"""Those that are entered. huggingface_hub downloads in threads of its own, which see no context variable."""


@contextmanager
def _bounded(bounds: _Bounds) -> Iterator[None]:
    _sessions.append(bounds)
    try:
        yield
    finally:
        _sessions.remove(bounds)


def _bound(response: httpx2.Response) -> None:
    """Holds an answer to the limits of the session."""
    import httpx2

    class Bounded(httpx2.SyncByteStream):
        def __init__(self, stream: httpx2.SyncByteStream, bounds: _Bounds) -> None:
            self._stream, self._bounds = stream, bounds

        def __iter__(self) -> Iterator[bytes]:
            return self._bounds.chunks(iter(self._stream))

        def close(self) -> None:
            self._stream.close()

    if _sessions:
        _sessions[-1].check(response)
        response.stream = Bounded(response.stream, _sessions[-1])  # type: ignore[arg-type]


class _Lines(logging.Handler):
    """Passes on each record as one line."""

    def __init__(self, log: Log, secrets: Collection[str]) -> None:
        super().__init__()
        self._log = log
        self._secrets = secrets

    def emit(self, record: logging.LogRecord) -> None:
        self._log(without_secrets("; ".join(record.getMessage().splitlines()), self._secrets))


@contextmanager
def _quiet(*names: str) -> Iterator[None]:
    """No line for each request of the HTTP client, with the storage URL and its query."""
    levels = {name: logging.getLogger(name).level for name in names}
    for name in names:
        logging.getLogger(name).setLevel(logging.WARNING)
    try:
        yield
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)


@contextmanager
def _lines_to(log: Log, secrets: Collection[str]) -> Iterator[None]:
    logger = logging.getLogger("huggingface_hub")
    before = logger.handlers, logger.propagate
    logger.handlers, logger.propagate = [_Lines(log, secrets)], False
    try:
        yield
    finally:
        logger.handlers, logger.propagate = before
