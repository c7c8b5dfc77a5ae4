"""The pages in docs/ describe every field of report.json, and of what a run returns."""

from __future__ import annotations

import pytest

from include.report import ReleaseReport, Scores
from include.settings import PROJECT
from include.tasks import LiveRelease

SCHEMA = ReleaseReport.model_json_schema(mode="serialization")
MODELS = {"ReleaseReport": SCHEMA, **SCHEMA["$defs"]}
FIELDS = [(model, field) for model, described in MODELS.items() for field in described.get("properties", {})]


@pytest.mark.parametrize(("model", "field"), FIELDS, ids=str)
def test_each_field_is_described(model: str, field: str) -> None:
    assert f"`{field}`" in (PROJECT / "docs" / "report.md").read_text()


@pytest.mark.parametrize("field", [*LiveRelease.model_fields, *Scores.model_fields])
def test_each_field_that_a_run_returns_is_described(field: str) -> None:
    assert f"`{field}`" in (PROJECT / "docs" / "rest-api.md").read_text()


def test_the_version_is_that_of_the_schema() -> None:
    version = SCHEMA["properties"]["schema_version"]["const"]
    assert f"schema version {version}\n" in (PROJECT / "docs" / "report.md").read_text()
