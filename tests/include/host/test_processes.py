"""Detached processes against real ones: found again, stopped, never mistaken for another."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from include.errors import HostError
from include.host import processes
from include.host.processes import ProcessRecord
from include.settings import PROJECT
from tests.support.wait import wait_for

DEAF = """
import signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("deaf", flush=True)
time.sleep(1000)
"""
WITH_CHILD = """
import subprocess, time
print(subprocess.Popen(["sleep", "1000"], start_new_session=True).pid, flush=True)
time.sleep(1000)
"""


@pytest.fixture
def path(tmp_path: Path) -> Iterator[Path]:
    """Where the record goes; what it names is ended after the test."""
    yield tmp_path / "process.json"
    if record := processes.find(tmp_path / "process.json", ProcessRecord):
        processes.stop(record, tmp_path / "process.json", grace_s=0)


def start(path: Path, *argv: str) -> ProcessRecord:
    return processes.spawn(ProcessRecord(log=path.with_suffix(".log")), path, argv, {"PATH": os.environ["PATH"]})


def python(path: Path, code: str) -> ProcessRecord:
    """Starts Python code and waits until it has printed a line."""
    record = start(path, sys.executable, "-c", code)
    wait_for(lambda: record.log.read_text().endswith("\n"))
    return record


def test_a_process_outlives_its_starter_and_is_found(path: Path) -> None:
    code = f"""
from pathlib import Path
from include.host.processes import ProcessRecord, spawn
path = Path({str(path)!r})
spawn(ProcessRecord(log=path.with_suffix(".log")), path, ["sleep", "1000"], {{"PATH": "/usr/bin:/bin"}})
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=PROJECT)
    record = processes.find(path, ProcessRecord)
    assert psutil.Process(record.pid).name() == "sleep"
    assert os.getsid(record.pid) == record.pid


def test_a_starter_killed_before_it_knew_the_pid_leaves_a_findable_process(path: Path) -> None:
    record = start(path, "sleep", "1000")
    path.write_text(record.model_copy(update={"pid": 0}).model_dump_json())
    assert processes.find(path, ProcessRecord) == record
    assert ProcessRecord.model_validate_json(path.read_text()) == record


def test_a_pid_that_is_another_process_now_is_not_found(path: Path) -> None:
    path.write_text(ProcessRecord(log=path.with_suffix(".log"), pid=os.getpid()).model_dump_json())
    assert processes.find(path, ProcessRecord) is None
    assert not path.exists()


@pytest.mark.parametrize("text", ["", "{", '{"pid": 1}'], ids=["empty", "cut", "of another program"])
def test_an_unreadable_record_is_no_process(path: Path, text: str) -> None:
    path.write_text(text)
    assert processes.find(path, ProcessRecord) is None


def test_no_record_is_no_process(path: Path) -> None:
    assert processes.find(path, ProcessRecord) is None


def test_one_that_died_is_not_found(path: Path) -> None:
    record = start(path, "sleep", "1000")
    os.kill(record.pid, signal.SIGKILL)
    wait_for(lambda: processes.process_of(record) is None)
    assert processes.find(path, ProcessRecord) is None
    assert not path.exists()


def test_stop_kills_what_does_not_end_by_itself(path: Path) -> None:
    record = python(path, DEAF)
    processes.stop(record, path, grace_s=0.3)
    assert processes.process_of(record) is None
    assert not path.exists()


def test_stop_ends_what_it_has_started_in_other_sessions_too(path: Path) -> None:
    record = python(path, WITH_CHILD)
    child = int(record.log.read_text())
    processes.stop(record, path, grace_s=5)
    wait_for(lambda: not psutil.pid_exists(child))


def test_the_log_of_the_one_before_is_kept(path: Path) -> None:
    first = python(path, "import time; print('first', flush=True); time.sleep(1000)")
    processes.stop(first, path, grace_s=5)
    python(path, "import time; print('second', flush=True); time.sleep(1000)")
    assert path.with_suffix(".log.1").read_text() == "first\n"


def test_free_ports_are_free_and_different() -> None:
    ports = processes.free_ports(5)
    assert len(set(ports)) == 5
    for port in ports:
        processes.check_port_free(port)


def test_the_port_of_a_listener_on_one_address_only_is_taken() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        with pytest.raises(HostError, match=f"port {port} is taken by .*pid {os.getpid()}"):
            processes.check_port_free(port)
