"""What becomes of the errors of a task's function."""

from __future__ import annotations

from pathlib import Path

import pytest

from hf2triton.operators import task
from include.context import Context
from include.errors import HostError
from include.settings import Settings


def test_a_path_that_cannot_be_used_is_a_host_error_that_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = Context(settings=Settings(artifacts=tmp_path), log=print, dag_id="d", run_id="r")
    monkeypatch.setattr(task, "task_context", lambda *_: context)

    def run(context: Context) -> None:
        (tmp_path / "x" / "y").touch()

    for _ in range(2):
        with pytest.raises(HostError, match="No such file") as caught:
            task.call_task(run, {}, {}, print)
        assert caught.value.where == str(tmp_path / "x" / "y")
