"""The programs of docs/rest-api.md, as far as no Airflow is needed: tests/e2e/test_rest.py runs them."""

from __future__ import annotations

import re
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

DOCS = Path(__file__).parents[1] / "docs"
BLOCKS = [
    (path.name, block)
    for path in sorted([*DOCS.glob("*.md"), DOCS.parent / "README.md"])
    for block in re.findall(r"```(?:bash|sh|shell)\n(.*?)```", path.read_text(), re.DOTALL)
]
(PROGRAM,) = re.findall(r"```python\n(.*?)```", (DOCS / "rest-api.md").read_text(), re.DOTALL)


@pytest.mark.parametrize(("page", "block"), BLOCKS, ids=lambda value: value if value.endswith(".md") else "")
def test_a_pasted_block_does_not_end_the_shell_it_is_pasted_into(page: str, block: str) -> None:
    assert not re.search(r"^\s*(set -[a-z]*e|exit\b)|(\|\||&&|;)\s*exit\b", block, re.MULTILINE)


@pytest.mark.parametrize(("page", "block"), BLOCKS, ids=lambda value: value if value.endswith(".md") else "")
def test_a_command_works_with_the_curl_of_older_systems(page: str, block: str) -> None:
    assert "--json" not in "\n".join(line for line in block.splitlines() if "benchmarks/" not in line)


class Tasks:
    """Airflow's answers about the tasks of a run that failed in its first one."""

    def __init__(self, api: object) -> None:
        pass

    def get_task_instances(self, dag: str, run: str) -> Any:
        states = {"check_request": "failed", "pull_model": "upstream_failed"}
        return SimpleNamespace(
            task_instances=[SimpleNamespace(task_id=task, state=state, try_number=1) for task, state in states.items()]
        )

    def get_log_without_preload_content(self, *_: object) -> Any:
        chain = [
            {"exc_type": "UserError", "exc_value": "no config.json\n  do: name a directory that has one"},
            {"exc_type": "FileNotFoundError", "exc_value": "[Errno 2] config.json"},
        ]
        log = {"content": [{"event": "begins"}, {"event": "Task failed with exception", "error_detail": chain}]}
        return SimpleNamespace(json=lambda: log)


def test_an_error_is_the_projects_message_and_not_its_innermost_cause(monkeypatch: pytest.MonkeyPatch) -> None:
    page = ModuleType("rest_api")
    exec(compile(PROGRAM, "docs/rest-api.md", "exec"), page.__dict__)
    monkeypatch.setattr(page.airflow, "TaskInstanceApi", Tasks)
    assert page.errors(None, "run") == {"check_request": "no config.json\n  do: name a directory that has one"}


class Dags:
    """A DAG that is paused; ``patched`` has what was asked of it."""

    def __init__(self, schedule: str | None) -> None:
        self.schedule = schedule
        self.patched: list[object] = []

    def get_dag(self, dag: str) -> Any:
        return SimpleNamespace(timetable_summary=self.schedule)

    def patch_dag(self, dag: str, body: object) -> None:
        self.patched.append(body)


@pytest.mark.parametrize(("schedule", "unpaused"), [(None, 1), ("None", 1), ("0 0 * * 0", 0)])
def test_a_trigger_does_not_switch_a_schedule_on(
    monkeypatch: pytest.MonkeyPatch, schedule: str | None, unpaused: int
) -> None:
    page = ModuleType("rest_api")
    exec(compile(PROGRAM, "docs/rest-api.md", "exec"), page.__dict__)
    dags = Dags(schedule)
    monkeypatch.setattr(page.airflow, "DAGApi", lambda api: dags)
    monkeypatch.setattr(page.airflow, "DagRunApi", lambda api: SimpleNamespace(trigger_dag_run=lambda *_: None))
    page.trigger(None, "run", {})
    assert len(dags.patched) == unpaused
