"""A session with the Hub about one repository: plain HTTP, no progress bars, no secrets in its log."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING

from include.files import Log
from include.redaction import without_secrets
from include.sources.hub_errors import hub_errors
from include.sources.hub_repo import Repo

if TYPE_CHECKING:
    import httpx2

REQUEST_TIMEOUT_S = 30.0
"""For requests that huggingface_hub sends without a timeout; a Hub that is silent must not hold a worker."""

_OFF = ("HF_HUB_DISABLE_XET", "HF_HUB_DISABLE_TELEMETRY")


@contextmanager
def hub_session(repo: Repo, log: Log = lambda _: None) -> Iterator[None]:
    """While entered, huggingface_hub logs lines to ``log`` and fails by the classes of `include.errors`."""
    from huggingface_hub.utils import disable_progress_bars

    with (
        disable_progress_bars(),
        _plain_http(),
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
    """Gives every client that huggingface_hub makes from now on the time limits of `_limit`, and else its own form."""
    import httpx2
    from huggingface_hub import get_session, set_client_factory

    own = get_session()
    hooks = {"request": [*own.event_hooks["request"], _limit]}
    set_client_factory(
        lambda: httpx2.Client(event_hooks=hooks, follow_redirects=own.follow_redirects, timeout=own.timeout)
    )


def _limit(request: httpx2.Request) -> None:
    """Sets the timeouts, in seconds, that the request leaves open; a client's default would not reach it."""
    own = request.extensions.get("timeout", {})
    limits = {name: REQUEST_TIMEOUT_S for name in ("connect", "read", "write", "pool")}
    request.extensions["timeout"] = limits | {name: time for name, time in own.items() if time is not None}


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
