"""The plugin for Airflow's web UI: the pages Models, Releases and Presets, and the report of each run."""

from __future__ import annotations

from functools import cached_property
from types import ModuleType
from typing import Any

from airflow.plugins_manager import AirflowPlugin

from hf2triton.links import PREFIX

_VIEWS = [
    {
        "name": "Models",
        "href": f"{PREFIX}/models",
        "destination": "nav",
        "url_route": "hf2triton-models",
        "category": "browse",
    },
    {
        "name": "Releases",
        "href": f"{PREFIX}/releases",
        "destination": "nav",
        "url_route": "hf2triton-releases",
        "category": "browse",
    },
    {
        "name": "Presets",
        "href": f"{PREFIX}/presets",
        "destination": "nav",
        "url_route": "hf2triton-presets",
        "category": "browse",
    },
    {
        "name": "Release report",
        "href": f"{PREFIX}/runs/{{DAG_ID}}/{{RUN_ID}}",
        "destination": "dag_run",
        "url_route": "hf2triton-report",
    },
]


class Hf2TritonPlugin(AirflowPlugin):
    """The plugin. Its pages are shown inside the UI, and also have their own addresses."""

    name = "hf2triton"
    external_views = _VIEWS

    @cached_property
    def listeners(self) -> list[ModuleType | object]:  # type: ignore[override]
        """The listener of runs, imported on access."""
        from hf2triton import notes

        return [notes]

    @cached_property
    def fastapi_apps(self) -> list[dict[str, Any]]:  # type: ignore[override]
        """The app of the pages, made on access: each worker loads the plugin, but only the API server needs the app."""
        from hf2triton.web import app

        return [{"app": app, "url_prefix": f"/{PREFIX}", "name": "hf2triton"}]

    @cached_property
    def fastapi_root_middlewares(self) -> list[dict[str, Any]]:  # type: ignore[override]
        """The middleware of the whole API server, made on access like the app."""
        from hf2triton.refusals import ShortRefusals

        return [{"middleware": ShortRefusals, "args": [], "kwargs": {}, "name": "hf2triton"}]
