"""Every setting is documented, with its default."""

from __future__ import annotations

import pytest

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
