"""Detached processes against real ones: found again, stopped, never mistaken for another."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import httpx
import psutil
import pytest

from include.demo import airflow
from include.errors import HostError
from include.host import ports
from include.host.services import ServiceRecord, ServiceSpec, find, obituary, process, rotate
from include.host.services.process import ProcessBackend, process_of
from include.live.proxy import proxy_of
from include.settings import PROJECT, Settings
from include.triton.client import Endpoint
from include.triton.servers import Ports, ServerPlan, ServerRecord
from tests.support import wait as waiting

BACKEND = ProcessBackend()
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
WITH_CHILD_WITHOUT_ENVIRONMENT = """
import subprocess, time
print(subprocess.Popen(["sleep", "1000"], env={}).pid, flush=True)
time.sleep(1000)
"""


@pytest.fixture
def path(tmp_path: Path) -> Iterator[Path]:
    """Where the record goes; what it names is ended after the test."""
    yield tmp_path / "process.json"
    if record := found(tmp_path / "process.json"):
        BACKEND.stop(record, tmp_path / "process.json", grace_s=0)


def found(path: Path) -> ServiceRecord | None:
    return find(path, ServiceRecord, BACKEND)


def start(path: Path, *argv: str) -> ServiceRecord:
    spec = ServiceSpec(argv=argv, env={"PATH": os.environ["PATH"]})
    return BACKEND.start(spec, ServiceRecord(log=path.with_suffix(".log")), path)


def python(path: Path, code: str) -> ServiceRecord:
    """Starts Python code and waits until it has printed a line."""
    record = start(path, sys.executable, "-c", code)
    wait_for(lambda: record.log.read_text().endswith("\n"))
    return record


wait_for = partial(waiting.wait_for, within_s=20)


def test_a_process_outlives_its_starter_and_is_found(path: Path) -> None:
    code = f"""
from pathlib import Path
from include.host.services import ServiceRecord, ServiceSpec
from include.host.services.process import ProcessBackend
path = Path({str(path)!r})
spec = ServiceSpec(argv=("sleep", "1000"), env={{"PATH": "/usr/bin:/bin"}})
ProcessBackend().start(spec, ServiceRecord(log=path.with_suffix(".log")), path)
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=PROJECT)
    record = found(path)
    assert psutil.Process(record.pid).name() == "sleep"
    assert os.getsid(record.pid) == record.pid


def test_a_starter_killed_before_it_knew_the_pid_leaves_a_findable_process(path: Path) -> None:
    record = start(path, "sleep", "1000")
    path.write_text(record.model_copy(update={"pid": 0}).model_dump_json())
    assert found(path) == record
    assert ServiceRecord.model_validate_json(path.read_text()) == record


def test_a_pid_that_is_another_process_now_is_not_found(path: Path) -> None:
    path.write_text(ServiceRecord(log=path.with_suffix(".log"), pid=os.getpid()).model_dump_json())
    assert found(path) is None
    assert not path.exists()


@pytest.mark.parametrize("text", ["", "{", '{"pid": 1}'], ids=["empty", "cut", "of another program"])
def test_an_unreadable_record_is_no_process(path: Path, text: str) -> None:
    path.write_text(text)
    assert found(path) is None


def test_no_record_is_no_process(path: Path) -> None:
    assert found(path) is None


def test_one_that_died_is_not_found(path: Path) -> None:
    record = start(path, "sleep", "1000")
    os.kill(record.pid, signal.SIGKILL)
    wait_for(lambda: process_of(record) is None)
    assert found(path) is None
    assert not path.exists()


def test_stop_kills_what_does_not_end_by_itself(path: Path) -> None:
    record = python(path, DEAF)
    BACKEND.stop(record, path, grace_s=0.3)
    assert process_of(record) is None
    assert not path.exists()


def test_stop_ends_what_it_has_started_in_other_sessions_too(path: Path) -> None:
    record = python(path, WITH_CHILD)
    child = int(record.log.read_text())
    BACKEND.stop(record, path, grace_s=5)
    wait_for(lambda: not psutil.pid_exists(child))


def test_stop_ends_a_child_whose_environment_cannot_be_read(path: Path) -> None:
    """Airflow's API server and workers give themselves titles, which overwrite it."""
    record = python(path, WITH_CHILD_WITHOUT_ENVIRONMENT)
    child = psutil.Process(int(record.log.read_text()))
    BACKEND.stop(record, path, grace_s=0)
    wait_for(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE)


def test_the_log_of_the_one_before_is_kept(path: Path) -> None:
    first = python(path, "import time; print('first', flush=True); time.sleep(1000)")
    BACKEND.stop(first, path, grace_s=5)
    python(path, "import time; print('second', flush=True); time.sleep(1000)")
    assert path.with_suffix(".log.1").read_text() == "first\n"


def test_a_log_that_grows_too_long_is_cut_off_while_its_process_writes_on(path: Path) -> None:
    record = python(path, "import time\nwhile True: print('line', flush=True); time.sleep(0.01)")
    assert not rotate(record.log, most_bytes=1 << 20)
    wait_for(lambda: record.log.stat().st_size > 100)
    assert rotate(record.log, most_bytes=100)
    assert path.with_suffix(".log.1").read_text().startswith("line\nline\n")
    wait_for(lambda: record.log.read_text().startswith("line\nline\n"))
    assert "\0" not in record.log.read_text()


def test_what_a_killed_process_has_started_goes_when_it_is_looked_for(path: Path) -> None:
    record = python(path, WITH_CHILD)
    child = int(record.log.read_text())
    os.kill(record.pid, signal.SIGKILL)
    wait_for(lambda: process_of(record) is None)
    assert found(path) is None
    wait_for(lambda: not psutil.pid_exists(child) or psutil.Process(child).status() == psutil.STATUS_ZOMBIE)


@pytest.mark.parametrize(
    ("code", "way"),
    [
        ("import sys; sys.exit(3)", "exit code 3"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "it was killed by SIGSEGV"),
    ],
)
def test_the_way_in_which_one_ended_is_told_as_long_as_the_kernel_knows_it(code: str, way: str) -> None:
    with subprocess.Popen([sys.executable, "-c", code]) as ended:
        wait_for(lambda: psutil.Process(ended.pid).status() == psutil.STATUS_ZOMBIE)
        assert BACKEND.why_gone(ServiceRecord(log=Path("/none"), pid=ended.pid)) == way


def test_one_that_the_kernel_killed_for_want_of_memory_is_told(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = python(path, "print('serving', flush=True); import time; time.sleep(1000)")
    assert obituary(record, BACKEND) is None
    kernel = tmp_path / "kmsg"
    kernel.write_text(f"3,1,2,-;Out of memory: Killed process {record.pid} (python) total-vm:1kB\n")
    monkeypatch.setattr(process, "_KERNEL_LOG", kernel)
    os.kill(record.pid, signal.SIGKILL)
    wait_for(lambda: process_of(record) is None)
    assert obituary(record, BACKEND) == "the kernel killed it for want of memory (OOM)\nserving"


def test_a_kernel_log_that_may_not_be_read_is_no_error(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "_KERNEL_LOG", Path("/nonexistent"))
    assert BACKEND.why_gone(ServiceRecord(log=path, pid=0)) == "it ended"


def test_free_ports_are_free_and_different() -> None:
    free = ports.free_ports(5)
    assert len(set(free)) == 5
    for port in free:
        ports.check_port_free(port)


def test_no_outgoing_connection_is_given_a_free_port(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given_away = tmp_path / "ip_local_port_range"
    given_away.write_text("10100\t60000\n")
    monkeypatch.setattr(ports, "_EPHEMERAL", given_away)
    assert max(ports.free_ports(20)) < 10_100


def test_a_host_that_gives_all_ports_to_connections_has_free_ports(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given_away = tmp_path / "ip_local_port_range"
    given_away.write_text("1024\t65535\n")
    monkeypatch.setattr(ports, "_EPHEMERAL", given_away)
    assert len(ports.free_ports(3)) == 3


def test_the_port_of_a_listener_on_one_address_only_is_taken() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        with pytest.raises(HostError, match=f"port {port} is taken by .*pid {os.getpid()}"):
            ports.check_port_free(port)


def test_a_pid_that_has_no_environment_now_is_not_found_in_bounded_time(path: Path) -> None:
    with subprocess.Popen(["env", "-i", "sleep", "1000"]) as bare:
        try:
            wait_for(lambda: psutil.Process(bare.pid).name() == "sleep")
            path.write_text(ServiceRecord(log=path.with_suffix(".log"), pid=bare.pid).model_dump_json())
            started = time.monotonic()
            assert found(path) is None
            assert time.monotonic() - started < 10
            assert not path.exists()
        finally:
            bare.kill()


@pytest.mark.parametrize(
    ("address", "url"),
    [
        ("127.0.0.1", "http://127.0.0.1:8000"),
        ("0.0.0.0", "http://127.0.0.1:8000"),
        ("::1", "http://[::1]:8000"),
        ("::", "http://[::1]:8000"),
        ("gpu-host", "http://gpu-host:8000"),
    ],
)
def test_a_url_is_one_that_this_host_can_ask(address: str, url: str) -> None:
    assert ports.http_url(address, 8000) == url
    httpx.URL(url)


def test_airflow_an_endpoint_and_a_servers_record_have_such_urls(tmp_path: Path) -> None:
    chosen = Settings(artifacts=tmp_path, bind_address="::1", airflow_port=1)
    plan = ServerPlan(
        target="t", repository=tmp_path, argv=("x",), ports=Ports(http=1, grpc=2, metrics=3), address="::1"
    )
    urls = {
        airflow.url_of(chosen),
        airflow.environment(chosen)["AIRFLOW__API__BASE_URL"],
        Endpoint(host="::1", http_port=1, grpc_port=2).url,
        ServerRecord(plan=plan, log=tmp_path / "log").url,
        proxy_of(chosen.model_copy(update={"live_http_port": 1})).url,
    }
    assert urls == {"http://[::1]:1"}
