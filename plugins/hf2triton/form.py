"""The trigger form, made from the request model: web UI, REST and schedules have the same limits."""

from __future__ import annotations

from typing import Any

from airflow.sdk import Param

from include.request import ReleaseRequest


def request_params() -> dict[str, Param]:
    """One `Param` for each field of `ReleaseRequest`, in its order and sections."""
    schema = ReleaseRequest.model_json_schema()
    return {name: _param(field) for name, field in schema["properties"].items()}


def _param(field: dict[str, Any]) -> Param:
    rules: dict[str, Any] = {name: value for name, value in field.items() if name not in {"default", "description"}}
    return Param(field["default"], description_md=field["description"], **rules)
