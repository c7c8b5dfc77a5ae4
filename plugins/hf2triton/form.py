"""The trigger form, made from a request model, so that web UI, REST API and schedules have the same limits."""

from __future__ import annotations

import re
from typing import Any

from airflow.sdk import Param

from include.requests.release import Form, ReleaseRequest

OPEN_SECTION = "Run Parameters"
"""The one section that Airflow 3.3's form opens, which knows it by this name."""
_DRAFT_7 = "http://json-schema.org/draft-07/schema#"


def request_params(request: type[Form] = ReleaseRequest) -> dict[str, Param]:
    """One `Param` for each field of a request, in its order and sections."""
    fields = request.model_json_schema()["properties"]
    first = next(iter(fields.values()))["section"]
    return {name: _param(field, is_open=field["section"] == first) for name, field in fields.items()}


def _param(field: dict[str, Any], *, is_open: bool) -> Param:
    rules: dict[str, Any] = {name: value for name, value in field.items() if name not in {"default", "description"}}
    if is_open:
        rules["section"] = OPEN_SECTION
    if former := rules.pop("former", None):
        # Draft 7 ignores keys beside $ref: the form offers the current values, and a run may still use former ones.
        taken = {"enum": [*rules["enum"], *former]}
        rules |= {"$schema": _DRAFT_7, "$ref": "#/definitions/taken", "definitions": {"taken": taken}}
    text = re.sub(r"`([^`]+)`", _bold, field["description"])
    return Param(field["default"], description_md=f"{text} {_limits(field)}".rstrip(), **rules)


def _limits(field: dict[str, Any]) -> str:
    """The limits of a number as text: the form clamps to them silently."""
    if "minimum" not in field or "maximum" not in field:
        return ""
    return f"Limits: {field['minimum']:g} to {field['maximum']:g}."


def _bold(code: re.Match[str]) -> str:
    """Bold text instead of code: Airflow 3.3's form draws the box of code over the lines around it."""
    return "**" + re.sub(r"[*_]", r"\\\g<0>", code[1]) + "**"
