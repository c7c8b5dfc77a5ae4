"""Failures of the Hub, translated into the classes of `include.errors` with a remedy."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from include.errors import HostError, PipelineError, ToolError, TransientError, UserError
from include.files import host_error
from include.redaction import carries_secret, without_secrets

if TYPE_CHECKING:
    import httpx2
    from huggingface_hub.errors import HfHubHTTPError

    from include.sources.hub_repo import Repo

_CONNECTION = "the Airflow Connection huggingface_default (or that of HF2TRITON_HUB_CONNECTION)"
_SET_TOKEN = f"put the Hub token of an account with access into {_CONNECTION}"
_RETRY = "nothing to do if it passes; else check the network, the proxy settings and the Hub's status page"
_CLOSED = re.compile(r"'NoneType' object has no attribute '(request|stream|send|build_request)'|client has been closed")
_MOST_REFS = 1000
_RETRY_STATUS = frozenset({408, 416, 425, 429, 500, 502, 503, 504})


@contextmanager
def hub_errors(repo: Repo) -> Iterator[None]:
    """Turns the exceptions of huggingface_hub about ``repo`` into the classes of `include.errors`."""
    try:
        yield
    except PipelineError:
        raise
    except Exception as error:  # huggingface_hub takes an answer as it comes: a wrong one fails anywhere in it
        raise translate(error, repo) from (None if carries_secret(error, repo.secrets) else error)


def translate(error: Exception, repo: Repo) -> PipelineError:
    """The failure that stands for ``error``; the token of ``repo`` is in none of its texts."""
    from huggingface_hub.errors import LocalEntryNotFoundError

    cause = error
    while isinstance(cause, LocalEntryNotFoundError) and isinstance(cause.__cause__, Exception):
        cause = cause.__cause__
    if isinstance(cause, PipelineError):
        return cause
    failure = next(make for kinds, make in _makers() if isinstance(cause, kinds))(cause, repo)
    what = without_secrets(failure.what, repo.secrets)
    return type(failure)(what, where=failure.where, fix=failure.fix)


_Maker = Callable[[Any, "Repo"], PipelineError]


def _makers() -> list[tuple[type[Exception] | tuple[type[Exception], ...], _Maker]]:
    """From the most to the least special: several of these classes derive from one another."""
    import httpx2
    from huggingface_hub import errors

    return [
        (errors.GatedRepoError, _gated),
        (errors.RevisionNotFoundError, _no_revision),
        (errors.RemoteEntryNotFoundError, _no_file),
        (errors.RepositoryNotFoundError, _no_repository),
        (errors.HfHubHTTPError, _by_status),
        (errors.OfflineModeIsEnabled, _offline_mode),
        (errors.HFValidationError, _bad_name),
        ((httpx2.UnsupportedProtocol, httpx2.InvalidURL), _bad_endpoint),
        (httpx2.TooManyRedirects, _not_a_hub),
        (httpx2.HTTPError, _network),
        ((AttributeError, RuntimeError), _closed_session),
        ((errors.FileMetadataError, ValueError, KeyError), _not_a_hub),
        (OSError, _file_system),
        (Exception, _not_a_hub),
    ]


def _gated(_: Exception, repo: Repo) -> PipelineError:
    why, fix = "there is no Hub token", f"accept its terms at {repo.url}, then {_SET_TOKEN}"
    if repo.token is not None:
        why = "the account of the Hub token has no access"
        fix = f"ask for access at {repo.url}; a fine-grained token must also allow gated repositories"
    return UserError(f"the {repo.kind} {repo.id} is gated, and {why}", where=repo.field, fix=fix)


def _no_repository(_: Exception, repo: Repo) -> PipelineError:
    why, fix = "there is no Hub token", _SET_TOKEN
    if repo.token is not None:
        why, fix = "the Hub token may not read it", "use a token of an account that may read it"
    return UserError(
        f"there is no {repo.kind} {repo.id}, or it is private and {why}",
        where=repo.field,
        fix=f"check the spelling; if it is private, {fix}",
    )


def _no_revision(_: Exception, repo: Repo) -> PipelineError:
    try:
        names = [name for name in repo.refs() if isinstance(name, str)][:_MOST_REFS]
    except Exception:  # the hint is not worth a second failure
        names = []
    close = difflib.get_close_matches(repo.revision, names, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(close)}?" if close else f"it has {', '.join(names[:8]) or 'no listed refs'}"
    return UserError(
        f"the {repo.kind} {repo.id} has no revision {repo.revision!r}",
        where=f"field revision: {repo.url}",
        fix=f"{hint} (a branch, a tag or a full commit of 40 hex digits)",
    )


def _no_file(_: Exception, repo: Repo) -> PipelineError:
    return TransientError(
        f"the endpoint lists a file of {repo.id} at {repo.revision} that it does not serve",
        where=repo.url,
        fix="a mirror may lag behind: wait, or use the Hub itself",
    )


def _by_status(error: HfHubHTTPError, repo: Repo) -> PipelineError:
    status: int = error.response.status_code
    said = (error.server_message or "").partition("\n")[0]
    if status in _RETRY_STATUS:
        what = "the Hub is asked too often" if status == 429 else "the Hub has a problem"
        return TransientError(f"{what} (HTTP {status}) {said}".strip(), where=repo.url, fix=_RETRY)
    if status == 401 and repo.token is None:
        return _no_repository(error, repo)
    if status == 401:
        return UserError(
            "the Hub does not accept the token: it is mistyped, expired or revoked",
            where=repo.field,
            fix=f"put a valid token into {_CONNECTION}",
        )
    if status == 403:
        return UserError(
            f"the Hub refuses access to {repo.id} (HTTP 403) {said}".strip(), where=repo.field, fix=_SET_TOKEN
        )
    return ToolError(
        f"the Hub answers HTTP {status} {said}".strip(),
        where=repo.url,
        fix="check that the endpoint is a Hub",
    )


def _offline_mode(_: Exception, repo: Repo) -> PipelineError:
    return HostError(
        "huggingface_hub is in offline mode on this worker",
        where=repo.url,
        fix="unset HF_HUB_OFFLINE, or name a local model directory",
    )


def _bad_name(_: Exception, repo: Repo) -> PipelineError:
    address = re.match(r"https?://[^/]+/(?:datasets/)?([\w.-]+/[\w.-]+)", repo.id)
    hint = f"did you mean {address[1]}?" if address else "give it as org/name"
    return UserError(f"{repo.id!r} is not the id of a {repo.kind} of the Hub", where=repo.field, fix=hint)


def _bad_endpoint(_: Exception, repo: Repo) -> PipelineError:
    return UserError(
        "the Hub endpoint is not an address", where=repo.field, fix="give one such as https://huggingface.co"
    )


def _network(error: Exception, repo: Repo) -> PipelineError:
    reason = str(error) or type(error).__name__
    if "CERTIFICATE_VERIFY_FAILED" in reason:
        return HostError(
            "this worker does not trust the certificate of the Hub's address",
            where=repo.url,
            fix="set SSL_CERT_FILE to a bundle that holds your proxy's certificate",
        )
    host = _asked(error)
    if host and host != urlsplit(repo.url).hostname:
        return TransientError(
            f"the Hub sends downloads on to {host}, which cannot be reached: {reason}",
            where=repo.url,
            fix=f"{_RETRY}; let the worker reach {host}, or use a mirror that serves the files itself",
        )
    return TransientError(
        f"the Hub cannot be reached: {reason}",
        where=repo.url,
        fix=f"{_RETRY}; without a network, set HF_ENDPOINT to a mirror or name a local directory or file",
    )


def _closed_session(error: AttributeError | RuntimeError, repo: Repo) -> PipelineError:
    """A race of huggingface_hub 2.4: one thread that lost its connection closes the client that others just took."""
    if not _CLOSED.search(str(error)):
        return _not_a_hub(error, repo)
    return TransientError(f"the Hub cannot be reached: its connection was lost ({error})", where=repo.url, fix=_RETRY)


def _asked(error: Exception) -> str | None:
    """The host that a failed request went to."""
    try:
        request: httpx2.Request = error.request  # type: ignore[attr-defined]
    except (AttributeError, RuntimeError):
        return None  # as it was never sent
    return request.url.host


def _not_a_hub(error: Exception, repo: Repo) -> PipelineError:
    return ToolError(
        f"the endpoint does not answer like a Hub ({type(error).__name__}: {str(error)[:200]})",
        where=repo.url,
        fix="check the endpoint's address, and that no proxy or login page answers in its place",
    )


def _file_system(error: OSError, repo: Repo) -> PipelineError:
    """An error of the disk has a number; huggingface_hub's check of the received size has none."""
    if error.errno is not None:
        return host_error(error, os.fspath(error.filename or repo.id))
    return TransientError(f"a file arrived incomplete: {str(error).partition(chr(10))[0]}", where=repo.url, fix=_RETRY)
