"""The process runner against real processes."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from include.artifacts.store import ArtifactStore
from include.errors import Ended, HostError, ToolError, UserError
from include.runners import process
from include.runners.job import Command, StageJob, StageTarget
from include.runners.process import ProcessRunner


def python(code: str) -> Command:
    return Command((sys.executable, "-c", code), {"STAGE_TEST": "1"})


def no_target(name: str) -> StageTarget:
    raise AssertionError(f"target {name} is not needed")


def run(code: str, out: Path) -> list[str]:
    lines: list[str] = []
    ProcessRunner(no_target, lines.append).execute(python(code), out)
    return lines


def test_output_arrives_line_by_line_progress_bars_included(tmp_path: Path) -> None:
    assert run(r"print('10%\r20%\r30%'); print('done')", tmp_path) == ["10%", "20%", "30%", "done"]


def test_the_program_is_told_where_to_write_and_gets_its_environment(tmp_path: Path) -> None:
    code = "import sys, os; print(sys.argv[1:], os.environ['STAGE_TEST'])"
    assert run(code, tmp_path) == [f"['--out', '{tmp_path}'] 1"]


def test_the_program_gets_no_secret_of_the_worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    secrets = {
        "HF_TOKEN": "hf_secret",
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": "postgresql://airflow:secret@db/airflow",
        "HTTPS_PROXY": "http://user:secret@proxy",
        "HF_ENDPOINT": "http://user:secret@hub",
        "AWS_SECRET_ACCESS_KEY": "secret",
    }
    for name, value in secrets.items():
        monkeypatch.setenv(name, value)
    shown = "\n".join(run("import os; [print(f'{n}={v}') for n, v in os.environ.items()]", tmp_path))
    assert "PATH=" in shown
    assert "STAGE_TEST=1" in shown
    assert "secret" not in shown


def test_the_program_has_no_network(tmp_path: Path) -> None:
    if subprocess.run(["unshare", "--user", "--map-current-user", "--net", "true"], capture_output=True).returncode:
        pytest.skip("the kernel lets this user make no network namespace")
    with socket.create_server(("127.0.0.1", 0)) as server:
        code = f"import socket; socket.create_connection(('127.0.0.1', {server.getsockname()[1]}), 5)"
        with pytest.raises(ToolError, match="OSError|ConnectionRefused|unreachable"):
            run(code, tmp_path)


def test_the_program_reaches_itself_as_torch_distributed_does(tmp_path: Path) -> None:
    code = """
import socket
with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname(), 5):
    print("reached")
"""
    assert run(code, tmp_path)[-1] == "reached"


def test_the_program_keeps_no_capability_for_loopback(tmp_path: Path) -> None:
    line = run("print(next(line for line in open('/proc/self/status') if line.startswith('CapAmb')))", tmp_path)[-1]
    assert int(line.split()[1], 16) == 0


def test_where_loopback_stays_down_the_program_has_no_network_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if os.geteuid() or subprocess.run(["unshare", "--net", "true"], capture_output=True).returncode:
        pytest.skip("only root can give the capability up")
    without = ("setpriv", "--bounding-set=-net_admin", "--inh-caps=-net_admin")
    monkeypatch.setattr(process, "_UNSHARE", (("unshare", "--net", *without),))
    with pytest.raises(ToolError, match="unreachable"):
        run("import socket; socket.create_connection(('127.0.0.1', 1), 5)", tmp_path)


def test_a_host_without_namespaces_runs_the_program_with_its_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "_UNSHARE", (("false",),))
    lines = run("print('ran')", tmp_path)
    assert "the program keeps the network" in lines[0]
    assert lines[1:] == ["ran"]


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
from include.runners import process
from include.runners.job import Command
ProcessRunner(None, lambda line: print(line, flush=True)).execute(
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

    runner = ProcessRunner(no_target, stop_when_started)
    with pytest.raises(Ended, match="stopped with its task"):
        runner.execute(python(code), tmp_path)
    _, alive = psutil.wait_procs(children, timeout=10)
    assert children
    assert not [p for p in alive if p.status() != psutil.STATUS_ZOMBIE]


def test_an_artifact_is_made_once(tmp_path: Path) -> None:
    code = "import pathlib, sys; (pathlib.Path(sys.argv[2]) / 'engine').write_text('made')"
    target = SimpleNamespace(command=lambda module, args: python(code))
    store, job = ArtifactStore(tmp_path), StageJob("played", "engines", "stage", (), (), {"is": "made up"})
    for find_target in (lambda name: target, no_target):
        with store.claim(job.kind, job.inputs, log=print) as claim:
            ProcessRunner(find_target, print).run(job, claim)
        assert (store.get(job.kind, claim.name).path / "engine").read_text() == "made"
