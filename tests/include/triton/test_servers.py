from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from include.errors import HostError, ToolError
from include.host.ports import check_port_free
from include.host.services.process import INHERITED, TOKEN_VARIABLE, ProcessBackend, token_of
from include.settings import Settings
from include.targets import pytriton
from include.triton import servers
from include.triton.hardening import beside_its_models
from include.triton.servers import ServerPlan, ServerRecord
from tests.support.echo import BROKEN, ECHO, ask, free, launched, write_repository

PYTHON = Settings().openvino_python
TIMEOUT_S = 60


def _plan(root: Path, code: str = ECHO) -> ServerPlan:
    pytriton.prepare(PYTHON)
    return pytriton.server("openvino", pytriton.ask(PYTHON), write_repository(root, code), free())


def _sleep(root: Path) -> ServerPlan:
    """A server that never gets ready."""
    return ServerPlan(target="none", repository=root, argv=("/bin/sleep", "1000"), env={}, ports=free())


def _family(token: str) -> list[int]:
    """Pids of all processes that a launch left running."""
    return [p.pid for p in psutil.process_iter() if token_of(p) == token]


@pytest.fixture
def no_leftovers(tmp_path: Path) -> Iterator[None]:
    """Ends what a failed test left behind."""
    yield
    for path in tmp_path.rglob("*.json"):
        if record := servers.find(path):
            servers.stop(record, path, grace_s=0)


@pytest.fixture
def sleeper(tmp_path: Path) -> Iterator[ServerRecord]:
    """A process that does nothing, recorded as a server."""
    plan = _sleep(tmp_path)
    record = ServerRecord(plan=plan, log=tmp_path / "server.log")
    record = ProcessBackend().start(plan, record, tmp_path / "server.json")
    yield record
    servers.stop(record, tmp_path / "server.json", grace_s=0)


@pytest.fixture(scope="module")
def record_path(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The record of one server that the tests share; it was launched by a process that has ended since."""
    root = tmp_path_factory.mktemp("shared")
    with launched(root, _plan(root)) as path:
        yield path


@pytest.fixture
def record(record_path: Path) -> ServerRecord:
    """The shared server, found by its record."""
    found = servers.find(record_path)
    assert found is not None
    return found


def test_server_survives_its_launcher_and_answers(record: ServerRecord) -> None:
    assert servers.is_ready(record)
    assert ask(record, 42) == 42


def test_server_is_nobodys_child_and_leads_its_own_session(record: ServerRecord) -> None:
    assert psutil.Process(record.pid).parent().pid != os.getpid()
    assert os.getsid(record.pid) == record.pid != os.getsid(0)


def test_server_does_not_inherit_its_launchers_environment(record: ServerRecord) -> None:
    given = {*record.plan.env, *INHERITED, TOKEN_VARIABLE}
    assert set(psutil.Process(record.pid).environ()) <= given


def test_server_listens_where_it_was_told_and_nowhere_else(record: ServerRecord) -> None:
    listening = [c.laddr for c in psutil.Process(record.pid).net_connections("tcp") if c.status == "LISTEN"]
    assert {address.ip.removeprefix("::ffff:") for address in listening} == {"127.0.0.1"}
    assert {address.port for address in listening} == set(record.ports.model_dump().values())


def test_taken_port_is_named_with_its_holder(record: ServerRecord) -> None:
    with pytest.raises(HostError, match=f"port {record.ports.http} is taken by tritonserver, pid {record.pid}"):
        check_port_free(record.ports.http)


def test_launch_on_a_taken_port_leaves_the_other_server_alone(
    record: ServerRecord, record_path: Path, tmp_path: Path
) -> None:
    with pytest.raises(HostError, match=str(record.ports.http)):
        servers.launch(record.plan, tmp_path / "second.json", timeout_s=1)
    assert not (tmp_path / "second.json").exists()
    assert servers.find(record_path) == record
    assert servers.is_ready(record)


def test_another_process_on_the_port_is_not_ready(record: ServerRecord, sleeper: ServerRecord) -> None:
    impostor = sleeper.model_copy(update={"plan": record.plan})
    assert httpx.get(f"{impostor.url}/v2/health/ready").status_code == httpx.codes.OK
    assert not servers.is_ready(impostor)


def test_model_that_does_not_load_is_a_tool_error_with_the_servers_own_words(tmp_path: Path) -> None:
    with pytest.raises(ToolError, match="no such engine: 4711") as caught:
        servers.launch(_plan(tmp_path, BROKEN), tmp_path / "server.json", timeout_s=TIMEOUT_S)
    assert "NVML" not in caught.value.what
    assert not (tmp_path / "server.json").exists()
    assert not [p for p in psutil.process_iter() if str(tmp_path) in " ".join(_argv(p))]


def test_server_that_is_not_ready_in_time_is_ended(tmp_path: Path) -> None:
    with pytest.raises(ToolError, match=r"not ready within 0.3 s"):
        servers.launch(_sleep(tmp_path), tmp_path / "server.json", timeout_s=0.3)
    assert servers.find(tmp_path / "server.json") is None


@pytest.mark.usefixtures("no_leftovers")
def test_stop_ends_the_stubs_too_frees_ports_and_memory(tmp_path: Path) -> None:
    path = tmp_path / "server.json"
    record = servers.launch(_plan(tmp_path), path, timeout_s=TIMEOUT_S)
    assert len(_family(record.token)) > 1
    segments = Path("/dev/shm")
    assert list(segments.glob(f"{record.plan.shared_memory}*"))
    servers.stop(record, path)
    assert not _family(record.token)
    assert not list(segments.glob(f"{record.plan.shared_memory}*"))
    for port in record.ports.all:
        check_port_free(port)
    assert not path.exists()


def _argv(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def test_a_repository_in_a_folder_of_any_name_is_served_from_inside_it() -> None:
    """Triton's python backend writes the path into a command of bash, without quotes."""
    argv = ("tritonserver", "--model-repository=/störe (a)/repositories/x@1", "--http-port=1")
    assert beside_its_models(argv, Path("/störe (a)/repositories/x@1")) == (
        "env",
        "--chdir=/störe (a)/repositories",
        "tritonserver",
        "--model-repository=/proc/self/cwd/x@1",
        "--http-port=1",
    )
    assert beside_its_models(argv, Path("/store/x@1")) == argv
