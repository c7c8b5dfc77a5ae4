"""The demo's Airflow serves no logs: Airflow would do so on every address."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from airflow.cli.cli_parser import get_parser

from hf2triton.standalone import Component
from include.settings import PROJECT


@pytest.mark.parametrize("name", ["scheduler", "triggerer"])
def test_components_that_would_serve_logs_do_not(name):
    component = Component(None, name, [name], {})
    assert get_parser().parse_args(component.command).skip_serve_logs


@pytest.mark.parametrize("name", ["api-server", "dag-processor"])
def test_other_components_start_as_ever(name):
    assert Component(None, name, [name], {}).command == [name]


def test_all_components_find_one_configuration_with_one_secret(tmp_path: Path) -> None:
    """Airflow's own program writes it before any component starts; else each would sign with a secret of its own."""
    program = """
import runpy, airflow.cli.commands.standalone_command as command
command.StandaloneCommand.run = lambda self: print(command.SubCommand.__module__)
runpy.run_module("hf2triton.standalone", run_name="__main__")
"""
    paths = os.pathsep.join([str(PROJECT), str(PROJECT / "plugins")])
    env = {"PATH": os.environ["PATH"], "AIRFLOW_HOME": str(tmp_path), "PYTHONPATH": paths}
    done = subprocess.run([sys.executable, "-c", program], env=env, capture_output=True, text=True, check=True)
    assert done.stdout.split()[-1] == "__main__"
    assert "\njwt_secret = " in (tmp_path / "airflow.cfg").read_text()
