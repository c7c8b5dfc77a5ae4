"""Tests run on an Airflow of their own: no user's database, no user's settings."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

PROJECT = Path(__file__).parents[1]

_home = tempfile.TemporaryDirectory(prefix="hf2triton-tests-")  # removed when the interpreter ends
os.environ["AIRFLOW_HOME"] = _home.name
os.environ["AIRFLOW__CORE__UNIT_TEST_MODE"] = "True"
os.environ["AIRFLOW__CORE__LOAD_EXAMPLES"] = "False"
os.environ["AIRFLOW__CORE__PLUGINS_FOLDER"] = str(PROJECT / "plugins")
os.environ["AIRFLOW__CORE__DAGS_FOLDER"] = str(PROJECT / "dags")
