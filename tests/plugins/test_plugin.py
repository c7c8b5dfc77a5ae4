"""What the plugin adds to Airflow's web UI, and what it costs those who do not serve it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from airflow import plugins_manager
from airflow.dag_processing.dagbag import DagBag
from airflow.sdk.configuration import conf

from hf2triton.links import report_url

PROJECT = Path(__file__).parents[2]


def test_airflow_loads_the_plugin_with_its_pages() -> None:
    apps, _ = plugins_manager.get_fastapi_plugins()
    assert plugins_manager._get_plugins()[1] == {}
    assert [app["url_prefix"] for app in apps] == ["/hf2triton"]
    assert {view["destination"] for view in plugins_manager._get_ui_plugins()[0]} == {"nav", "dag_run"}


def test_a_worker_that_loads_the_plugin_does_not_load_the_web_server() -> None:
    code = (
        "import sys; from airflow.sdk import plugins_manager; "
        "assert any(p.name == 'hf2triton' for p in plugins_manager._get_plugins()[0]); print('fastapi' in sys.modules)"
    )
    asked = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert asked.stdout.splitlines()[-1] == "False"


@pytest.mark.parametrize("task", ["validate_generate", "approve_release", "promote_release", "stop_candidate"])
def test_tasks_about_a_release_have_a_button_to_its_report(task: str) -> None:
    dag = DagBag(PROJECT / "dags").dags["release_awq_engine"]
    assert [link.name for link in dag.get_task(task).operator_extra_links] == ["Release report"]


@pytest.mark.parametrize(
    ("base", "path"),
    [
        ("http://airflow:8080", "/hf2triton/runs/dag/manual__2026-01-01T00%3A00%3A00%2B00%3A00"),
        ("https://host/airflow/", "/airflow/hf2triton/runs/dag/manual__2026-01-01T00%3A00%3A00%2B00%3A00"),
    ],
)
def test_the_address_of_a_report_is_below_the_web_uis(monkeypatch: pytest.MonkeyPatch, base: str, path: str) -> None:
    monkeypatch.setenv("AIRFLOW__API__BASE_URL", base)
    assert conf.get("api", "base_url") == base
    assert report_url("dag", "manual__2026-01-01T00:00:00+00:00") == path
