"""The demo's Airflow serves no logs: Airflow would do so on every address."""

from __future__ import annotations

import pytest
from airflow.cli.cli_parser import get_parser

from hf2triton.standalone import Component


@pytest.mark.parametrize("name", ["scheduler", "triggerer"])
def test_components_that_would_serve_logs_do_not(name):
    component = Component(None, name, [name], {})
    assert get_parser().parse_args(component.command).skip_serve_logs


@pytest.mark.parametrize("name", ["api-server", "dag-processor"])
def test_other_components_start_as_ever(name):
    assert Component(None, name, [name], {}).command == [name]
