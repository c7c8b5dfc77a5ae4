"""Redaction: texts and errors without secrets, before they reach logs and people.

Secrets are those that this process was given (a token, passwords in the URLs of its environment), and whatever a URL
in a text carries: a user with a password, or a query, which in a storage's URL is a signature.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Collection, Mapping
from typing import TypeVar
from urllib.parse import unquote

from include.errors import PipelineError, ToolError

T = TypeVar("T")
HIDDEN = "***"
_URL = re.compile(r"\b([a-z][a-z0-9+.-]*://)(?:[^/?#\s'\"]*@)?([^?\s'\"<>]*)(?:\?[^\s'\"<>]*)?", re.IGNORECASE)
_USER_INFO = re.compile(r"://([^\s]*)@")
_NAMES = re.compile(r"(TOKEN|PASSWORD|SECRET|KEY)$")
_SHORTEST = 4
"""A shorter secret is in too many words; with its user, in a URL, it is hidden all the same."""


def without_secrets(text: str, secrets: Collection[str] = ()) -> str:
    """``text`` without the ``secrets``, and without the users, passwords and queries of its URLs."""
    for secret in sorted(secrets, key=len, reverse=True):
        text = text.replace(secret, HIDDEN)
    return _URL.sub(r"\1\2", text)


def secrets_of(environment: Mapping[str, str]) -> frozenset[str]:
    """The secrets in environment variables: tokens, keys, and the passwords of URLs (endpoint, proxies, database)."""
    named = (value.strip() for name, value in environment.items() if _NAMES.search(name))
    found = {value for value in named if not value.startswith("/")}  # a key's file is no secret
    for value in environment.values():
        for user_info in _USER_INFO.findall(value):
            password = user_info.partition(":")[2] or user_info
            found |= {password, unquote(password)}
    return frozenset(secret for secret in found if len(secret) >= _SHORTEST)


def carries_secret(error: BaseException, secrets: Collection[str] = ()) -> bool:
    """True if the text of the error has a secret, or that of an error which it was raised from."""
    seen: set[int] = set()
    while id(error) not in seen:
        seen.add(id(error))
        texts = (str(error), repr(error), *getattr(error, "__notes__", ()))
        if any(without_secrets(text, secrets) != text for text in texts):
            return True
        error = error.__cause__ or error.__context__ or error
    return False


def redacted(error: Exception, secrets: Collection[str] = ()) -> Exception:
    """The error without secrets: itself if it has none, else one of its kind that stands alone."""
    if not carries_secret(error, secrets):
        return error
    if isinstance(error, PipelineError):
        fields = {name: without_secrets(text, secrets) for name, text in error.to_dict().items() if name != "class"}
        return type(error)(**fields)
    return ToolError(without_secrets(f"{type(error).__name__}: {error}", secrets))


def call_redacted(function: Callable[[], T], secrets: Collection[str] = ()) -> T:
    """Calls a function; what it raises has no secrets in it, nor in its traceback's chain of errors."""
    try:
        return function()
    except Exception as error:
        failure = redacted(error, secrets)
    # Raised here, because inside the block the error would be its context.
    raise failure


def own_secrets() -> frozenset[str]:
    """The secrets in the environment of this process."""
    return secrets_of(os.environ)
