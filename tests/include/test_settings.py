"""Every setting is documented, with its default."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from include.settings import PROJECT, Settings


def variable(name: str) -> str:
    return str(Settings.model_fields[name].validation_alias or f"HF2TRITON_{name.upper()}")


@pytest.mark.parametrize("name", Settings.model_fields)
def test_each_setting_stands_in_the_docs_with_its_default(name: str) -> None:
    default = str(Settings.model_fields[name].default).removeprefix(f"{PROJECT}/")
    assert f"| `{variable(name)}` | `{default}` |" in (PROJECT / "docs" / "settings.md").read_text()


@pytest.mark.parametrize("name", ["live_http_port", "airflow_port"])
def test_a_setting_is_read_from_the_environment(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(variable(name), "1234")
    assert getattr(Settings(), name) == 1234


@pytest.mark.parametrize(
    ("given", "url"), [("https://a.example/x/", "https://a.example/x"), ("http://a:8", "http://a:8")]
)
def test_a_public_url_is_one(given: str, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF2TRITON_PUBLIC_URL", given)
    assert Settings().public_url == url


@pytest.mark.parametrize("given", ["models.example.org", "https://", "ftp://a", "https://a/?b"])
def test_a_public_url_that_is_none_is_refused(given: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF2TRITON_PUBLIC_URL", given)
    with pytest.raises(ValidationError, match="public_url"):
        Settings()
