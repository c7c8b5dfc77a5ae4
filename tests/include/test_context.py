"""What a task has at hand."""

from __future__ import annotations

from pathlib import Path

from include.context import Context
from include.settings import Settings


def test_records_stand_beside_each_other(tmp_path: Path) -> None:
    context = Context(settings=Settings(artifacts=tmp_path), log=print, dag_id="d", run_id="r")
    assert context.candidate_record.parent == context.settings.artifacts / "servers"
