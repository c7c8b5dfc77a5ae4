"""The trigger form, made from a request model: web UI, REST and schedules have the same limits."""

from __future__ import annotations

from typing import Any

from airflow.sdk import Param

from include.request import Form, ReleaseRequest


def request_params(request: type[Form] = ReleaseRequest) -> dict[str, Param]:
    """One `Param` for each field of a request, in its order and sections."""
    schema = request.model_json_schema()
    return {name: _param(field) for name, field in schema["properties"].items()}


def _param(field: dict[str, Any]) -> Param:
    rules: dict[str, Any] = {name: value for name, value in field.items() if name not in {"default", "description"}}
    return Param(field["default"], description_md=field["description"], **rules)
