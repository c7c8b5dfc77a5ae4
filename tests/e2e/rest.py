"""Airflow's REST API for the end-to-end tests: the demo's client, and any path as it is."""

from __future__ import annotations

from typing import Any

import httpx

from include.demo.api import AirflowApi
from include.errors import ToolError


class AnyPath(AirflowApi):
    """The demo's client, with paths that the demo does not need."""

    def get(self, path: str) -> dict[str, Any]:
        """The JSON at a path; raises `ToolError` if Airflow refuses."""
        return self._call("GET", path)

    def patch(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """Changes what is at a path; raises `ToolError` if Airflow refuses."""
        return self._call("PATCH", path, body)

    def _call(self, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        login = {"Authorization": f"Bearer {self.token}"}
        answer = httpx.request(method, f"{self.url}{path}", json=body, headers=login, timeout=120, trust_env=False)
        if answer.is_error:
            raise ToolError(f"{method} {path}: {answer.status_code} {answer.text[:300]}", where=self.url)
        value: dict[str, Any] = answer.json()
        return value
