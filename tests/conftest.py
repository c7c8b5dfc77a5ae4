"""Tests run on an Airflow of their own: no user's database, no user's settings.

There are two environments, and each collects what it can import. Tiers are chosen by marker, see pyproject.toml.
"""

from __future__ import annotations

import os
import tempfile
from importlib.util import find_spec
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
PROJECT = TESTS.parent
# They import what only the openvino target's environment has.
OPENVINO = (
    TESTS / "include" / "stages",
    TESTS / "include" / "demo" / "test_smollm2.py",
    TESTS / "include" / "targets" / "openvino" / "repository",
)
E2E = TESTS / "e2e"
# Seconds for one test with its fixtures, by tier: the first that a test is of counts.
TIMEOUTS_S = {"e2e": 2400, "slow": 900, "docker": 600, "openvino": 300}
UNIT_TIMEOUT_S = 240

_home = tempfile.TemporaryDirectory(prefix="hf2triton-tests-")  # removed when the interpreter ends
os.environ["AIRFLOW_HOME"] = _home.name
os.environ["AIRFLOW__CORE__UNIT_TEST_MODE"] = "True"
os.environ["AIRFLOW__CORE__LOAD_EXAMPLES"] = "False"
os.environ["AIRFLOW__CORE__PLUGINS_FOLDER"] = str(PROJECT / "plugins")
os.environ["AIRFLOW__CORE__DAGS_FOLDER"] = str(PROJECT / "dags")


def pytest_ignore_collect(collection_path: Path) -> bool | None:
    """Leaves out what this environment cannot import."""
    if find_spec("torch") is None:
        return collection_path in OPENVINO or None
    inside = any(collection_path.is_relative_to(path) or path.is_relative_to(collection_path) for path in OPENVINO)
    return None if inside else True


def pytest_itemcollected(item: pytest.Item) -> None:
    """Marks a test by its folder, and sets how long one of its tier may take."""
    if any(item.path.is_relative_to(path) for path in OPENVINO):
        item.add_marker("openvino")
    if item.path.is_relative_to(E2E):
        item.add_marker("e2e")
    tiers = (seconds for tier, seconds in TIMEOUTS_S.items() if item.get_closest_marker(tier))
    item.add_marker(pytest.mark.timeout(next(tiers, UNIT_TIMEOUT_S)))


_failed: dict[Path, str] = {}


def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> None:
    """Remembers the step of a story that failed."""
    if item.get_closest_marker("story") and call.excinfo and not call.excinfo.errisinstance(pytest.skip.Exception):
        _failed.setdefault(item.path, item.name)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Ends a story at the step that failed: what follows would only repeat its error."""
    if step := _failed.get(item.path):
        pytest.skip(f"the step before it failed: {step}")
