"""The process runner against real processes."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from include.errors import HostError, ToolError, UserError
from include.runners.job import Command
from include.runners.process import ProcessRunner


def python(code: str) -> Command:
    return Command((sys.executable, "-c", code), {"STAGE_TEST": "1"})


def run(code: str, out: Path) -> list[str]:
    lines: list[str] = []
    ProcessRunner(lines.append).run(python(code), out)
    return lines


def test_output_arrives_line_by_line_progress_bars_included(tmp_path: Path) -> None:
    assert run(r"print('10%\r20%\r30%'); print('done')", tmp_path) == ["10%", "20%", "30%", "done"]


def test_the_program_is_told_where_to_write_and_gets_its_environment(tmp_path: Path) -> None:
    code = "import sys, os; print(sys.argv[1:], os.environ['STAGE_TEST'])"
    assert run(code, tmp_path) == [f"['--out', '{tmp_path}'] 1"]


def test_a_tools_error_carries_its_last_lines(tmp_path: Path) -> None:
    with pytest.raises(ToolError, match=r"exit code 3:\nline 5(.|\n)*line 19"):
        run("[print('line', n) for n in range(20)]; raise SystemExit(3)", tmp_path)


def test_a_failure_that_the_program_describes_keeps_its_class(tmp_path: Path) -> None:
    failure = {
        "class": "UserError",
        "what": "group size 128 does not divide 576",
        "where": "x",
        "fix": "use 64",
    }
    (tmp_path / "failure.json").write_text(json.dumps(failure))
    with pytest.raises(UserError, match="does not divide"):
        run("raise SystemExit(64)", tmp_path)


def test_a_kill_is_called_out_of_memory(tmp_path: Path) -> None:
    with pytest.raises(HostError, match="OOM"):
        run("import os; os.kill(os.getpid(), 9)", tmp_path)


def test_the_program_does_not_outlive_a_parent_that_is_killed(tmp_path: Path) -> None:
    child = "import os, time; print(os.getpid(), flush=True); time.sleep(600)"
    parent = f"""
import sys
from pathlib import Path
from include.runners.process import ProcessRunner
from include.runners.job import Command
ProcessRunner(lambda line: print(line, flush=True)).run(
    Command((sys.executable, "-c", {child!r}), {{}}), Path({str(tmp_path)!r})
)
"""
    process = subprocess.Popen([sys.executable, "-c", parent], stdout=subprocess.PIPE, text=True)
    stage = psutil.Process(int(process.stdout.readline()))
    process.kill()
    process.wait()
    _, alive = psutil.wait_procs([stage], timeout=10)
    assert not [p for p in alive if p.status() != psutil.STATUS_ZOMBIE]


def test_stop_ends_the_program_and_its_children(tmp_path: Path) -> None:
    code = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
print(child.pid, flush=True)
time.sleep(600)
"""
    children: list[psutil.Process] = []

    def stop_when_started(line: str) -> None:
        children.append(psutil.Process(int(line)))
        runner.stop()

    runner = ProcessRunner(stop_when_started)
    with pytest.raises(ToolError, match=f"exit code {-signal.SIGTERM}"):
        runner.run(python(code), tmp_path)
    _, alive = psutil.wait_procs(children, timeout=10)
    assert children
    assert not [p for p in alive if p.status() != psutil.STATUS_ZOMBIE]
