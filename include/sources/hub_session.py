"""How this project talks to the Hub: one repository, plain HTTP, no bars, no secrets in what is said."""

from __future__ import annotations

import dataclasses
import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal
from urllib.parse import urlsplit

from include.errors import UserError
from include.sources.files import Log
from include.sources.hub_errors import hub_errors, without_secrets

if TYPE_CHECKING:
    import httpx2
    from huggingface_hub import HfApi

REQUEST_TIMEOUT_S = 30.0
"""For requests that huggingface_hub sends without a timeout; a Hub that is silent must not hold a worker."""

_OFF = ("HF_HUB_DISABLE_XET", "HF_HUB_DISABLE_TELEMETRY")


@dataclass(frozen=True)
class Repo:
    """A repository at ``revision``. Without ``endpoint``, on the Hub or on what ``HF_ENDPOINT`` names."""

    kind: Literal["model", "dataset"]
    id: str
    revision: str
    token: str | None = dataclasses.field(repr=False)
    endpoint: str | None

    def __post_init__(self) -> None:
        if self.endpoint is None:
            return
        if not re.fullmatch(r"https?://[^/\s]+(/\S*)?", self.endpoint):
            raise UserError(
                "the Hub endpoint is not an http or https address",
                where="HF_ENDPOINT",
                fix="give one such as https://huggingface.co",
            )
        object.__setattr__(self, "endpoint", self.endpoint.rstrip("/"))

    @property
    def url(self) -> str:
        """The repository's page, without credentials that the endpoint may hold."""
        from huggingface_hub import constants

        parts = urlsplit(self.endpoint or constants.ENDPOINT)
        host = parts.netloc.rpartition("@")[2]
        prefix = "datasets/" if self.kind == "dataset" else ""
        return f"{parts.scheme}://{host}{parts.path}/{prefix}{self.id}"

    @property
    def field(self) -> str:
        """The ``where`` of a failure that is in what the user named: the request's field and the page."""
        return f"field {'model' if self.kind == 'model' else 'calib_data'}: {self.url}"

    def api(self) -> HfApi:
        """The client; without a token it sends none, not even one that is stored on this machine."""
        from huggingface_hub import HfApi

        return HfApi(endpoint=self.endpoint, token=self.token or False)

    def pinned(self, canonical: str, commit: str | None) -> Repo:
        """This repository at a commit, by the id that the Hub has for it; ValueError for nonsense."""
        from huggingface_hub.utils._validators import validate_repo_id

        validate_repo_id(canonical)
        if not re.fullmatch(r"[0-9a-f]{40}", commit or ""):
            raise ValueError(f"the commit {commit!r} is not 40 hex digits")
        return replace(self, id=canonical, revision=str(commit))

    def refs(self) -> list[str]:
        """The names of its branches and tags."""
        refs = self.api().list_repo_refs(self.id, repo_type=self.kind)
        return [ref.name for ref in (*refs.branches, *refs.tags)]


@contextmanager
def hub_session(repo: Repo, log: Log = lambda _: None) -> Iterator[None]:
    """While entered, huggingface_hub logs lines to ``log`` and fails by the classes of `include.errors`."""
    from huggingface_hub.utils.tqdm import disable_progress_bars

    with (
        disable_progress_bars(),
        _plain_http(),
        _quiet("httpx2", "httpcore2"),
        _lines_to(log, repo.token),
        hub_errors(repo),
    ):
        yield


@contextmanager
def _plain_http() -> Iterator[None]:
    """No Xet: mirrors pass on its headers without having it, and plain HTTP resumes by Range everywhere.

    No telemetry: it would first ask which AI agents there are, and not ``endpoint`` but what ``HF_ENDPOINT`` was.
    """
    from huggingface_hub import constants, set_client_factory
    from huggingface_hub.utils._http import default_client_factory

    def client() -> httpx2.Client:
        made = default_client_factory()
        made.event_hooks = {"request": [*made.event_hooks["request"], _limit]}
        return made

    before = {name: getattr(constants, name) for name in _OFF}
    vars(constants).update(dict.fromkeys(_OFF, True))
    set_client_factory(client)
    try:
        yield
    finally:
        vars(constants).update(before)
        set_client_factory(default_client_factory)


def _limit(request: httpx2.Request) -> None:
    """Sets the timeouts, in seconds, that the request leaves open; a client's default would not reach it."""
    own = request.extensions.get("timeout", {})
    limits = {name: REQUEST_TIMEOUT_S for name in ("connect", "read", "write", "pool")}
    request.extensions["timeout"] = limits | {name: time for name, time in own.items() if time is not None}


class _Lines(logging.Handler):
    """Passes on each record as one line."""

    def __init__(self, log: Log, token: str | None) -> None:
        super().__init__()
        self._log = log
        self._token = token

    def emit(self, record: logging.LogRecord) -> None:
        self._log(without_secrets("; ".join(record.getMessage().splitlines()), self._token))


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
def _lines_to(log: Log, token: str | None) -> Iterator[None]:
    logger = logging.getLogger("huggingface_hub")
    before = logger.handlers, logger.propagate
    logger.handlers, logger.propagate = [_Lines(log, token)], False
    try:
        yield
    finally:
        logger.handlers, logger.propagate = before
