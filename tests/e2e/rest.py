"""Airflow's REST API for the end-to-end tests: the demo's client, and any path as it is."""

from __future__ import annotations

from typing import Any

from include.demo.api import AirflowApi


class AnyPath(AirflowApi):
    """The demo's client, with paths that the demo does not need."""

    def get(self, path: str) -> dict[str, Any]:
        """The JSON at a path; raises `ToolError` if Airflow refuses."""
        return self._call("GET", path)

    def patch(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """Changes what is at a path; raises `ToolError` if Airflow refuses."""
        return self._call("PATCH", path, body)
