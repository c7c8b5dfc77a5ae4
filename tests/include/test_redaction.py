"""Texts, errors and the errors behind them, without secrets."""

from __future__ import annotations

import traceback

import pytest

from include.errors import HostError, PipelineError, ToolError, TransientError
from include.redaction import call_redacted, secrets_of, without_secrets

KNOWN = ["s3cret"]
SIGNED = "https://store.example/model?X-Amz-Signature=abcdef0123"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("at http://user:secret@hub.example/a b", "at http://hub.example/a b"),
        ("at http://secret@hub.example", "at http://hub.example"),
        ("'http://user:se@cret@hub.example/x'", "'http://hub.example/x'"),
        (f"GET '{SIGNED}' failed", "GET 'https://store.example/model' failed"),
        ("postgresql+psycopg2://airflow:secret@db/airflow", "postgresql+psycopg2://db/airflow"),
        ("redis://:secret@redis:6379/0", "redis://redis:6379/0"),
        ("Bearer hf_known", "Bearer ***"),
        ("nothing of all that: a@b.example, 3:4", "nothing of all that: a@b.example, 3:4"),
    ],
)
def test_a_text_keeps_all_but_its_secrets(text, shown):
    assert without_secrets(text, ["hf_known"]) == shown


def test_the_secrets_of_an_environment():
    environment = {
        "HF_TOKEN": "hf_token123\n",
        "HF_ENDPOINT": "http://user:endpoint-pw@hub.example",
        "HTTPS_PROXY": "http://user:proxy%40pw@proxy.example:3128",
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": "postgresql://airflow:db-pw@db/airflow",
        "AIRFLOW__API_AUTH__JWT_SECRET": "jwt-secret",
        "AIRFLOW__CORE__FERNET_KEY": "fernet-key",
        "HF2TRITON_SIGNING_KEY": "/etc/hf2triton/key.pem",
        "PATH": "/usr/bin",
    }
    assert secrets_of(environment) == {
        *("hf_token123", "endpoint-pw", "proxy%40pw", "proxy@pw", "db-pw", "jwt-secret", "fernet-key")
    }


def fail(error: Exception, *behind: Exception, implicit: bool = False) -> None:
    """Raises the error from the others, as libraries do."""
    if not behind:
        raise error
    try:
        fail(*behind, implicit=implicit)
    except Exception as cause:
        if implicit:
            raise error  # noqa: B904 - the case of the test
        raise error from cause


@pytest.mark.parametrize("implicit", [False, True])
@pytest.mark.parametrize(
    "errors",
    [
        (TransientError("a Hub away", where=f"at {SIGNED}"),),
        (HostError("cannot connect", fix="ask s3cret"),),
        (ToolError("what"), ConnectionError(f"Max retries: {SIGNED}")),
        (TransientError("what"), OSError("in between"), ValueError("proxy http://user:s3cret@proxy")),
        (ValueError(f"raw {SIGNED}"),),
        (KeyError("in"), RuntimeError("s3cret")),
    ],
)
def test_no_error_behind_an_error_shows_a_secret(errors, implicit):
    with pytest.raises(Exception) as raised:  # noqa: PT011 - of any class
        call_redacted(lambda: fail(*errors, implicit=implicit), KNOWN)
    shown = "".join(traceback.format_exception(raised.value))
    behind = [raised.value]
    while behind[-1].__cause__ or behind[-1].__context__:
        behind.append(behind[-1].__cause__ or behind[-1].__context__)
    for text in (shown, *map(repr, behind)):
        assert "abcdef0123" not in text
        assert "s3cret" not in text
    if isinstance(errors[0], PipelineError):
        assert type(raised.value) is type(errors[0])


def test_an_error_without_a_secret_stays_as_it_is():
    with pytest.raises(HostError) as raised:
        call_redacted(lambda: fail(HostError("disk full", where="/x"), OSError(28, "No space left")))
    assert isinstance(raised.value.__cause__, OSError)
    assert raised.value.where == "/x"


def test_what_a_function_returns_is_returned():
    assert call_redacted(lambda: 3) == 3
