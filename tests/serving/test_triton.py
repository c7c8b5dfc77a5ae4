from __future__ import annotations

import sys
from pathlib import Path

import httpx
import pytest
import tritonclient.grpc as grpc  # noqa: TID253
from tritonclient.utils import InferenceServerException  # noqa: TID253

from include.errors import HostError
from include.targets import pytriton
from include.targets.pytriton import Environment
from include.triton.client import Client
from include.triton.client import Endpoint as GateEndpoint

from .conftest import PYTHON, Endpoint

GOOD = Environment(
    python="3.11",
    site_packages=Path("/env/lib/python3.11/site-packages"),
    scripts=Path("/env/bin"),
    library="libpython3.11.so.1.0",
    library_dir=Path("/opt/python/lib"),
    pytriton=Path("/env/lib/python3.11/site-packages/pytriton"),
    numpy="1.26.4",
)


def test_stub_of_the_environments_own_python_is_put_beside_the_backend() -> None:
    environment = pytriton.ask(PYTHON)
    root = environment.server_root
    put = root / "backends" / "python" / pytriton.STUB
    put.unlink(missing_ok=True)
    pytriton.prepare(PYTHON)
    assert put.read_bytes() == (root / "python_backend_stubs" / environment.python / pytriton.STUB).read_bytes()
    assert put.stat().st_mode & 0o111


def test_environment_without_a_server_is_refused() -> None:
    with pytest.raises(HostError, match="nvidia-pytriton.*not installed"):
        pytriton.prepare(Path(sys.executable))


def test_interpreter_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(HostError, match="does not run"):
        pytriton.prepare(tmp_path / "python")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param({"library_dir": None}, r"libpython3\.11\.so\.1\.0", id="no shared libpython"),
        pytest.param({"numpy": "2.3.1"}, "numpy below 2", id="numpy 2"),
        pytest.param({"numpy": None}, "numpy below 2", id="no numpy"),
    ],
)
def test_libraries_that_would_crash_the_stub_are_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(HostError, match=message) as caught:
        pytriton._check_libraries(GOOD.model_copy(update=change))
    assert caught.value.fix


@pytest.mark.parametrize(
    ("library_dir", "expected"),
    [("/opt/python/lib", "/opt/python/lib"), ("/usr/lib/x86_64-linux-gnu", None)],
    ids=["another build's", "the system's"],
)
def test_library_path_is_set_only_where_the_loader_would_not_look(library_dir: str, expected: str | None) -> None:
    variables = pytriton._variables(GOOD.model_copy(update={"library_dir": Path(library_dir)}))
    assert variables.get("LD_LIBRARY_PATH") == expected


def test_threads_of_the_server_have_a_stack_that_no_body_fills(plain: Endpoint) -> None:
    limits = Path(f"/proc/{plain.record.pid}/limits").read_text()
    (line,) = (line for line in limits.splitlines() if line.startswith("Max stack size"))
    assert line.split()[3] == str(512 << 20)


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "v2/systemsharedmemory/status"),
        ("POST", "v2/systemsharedmemory/region/x/register"),
        ("GET", "v2/cudasharedmemory/status"),
        ("POST", "v2/logging"),
        ("GET", "v2/trace/setting"),
    ],
)
def test_what_changes_a_server_is_restricted(plain: Endpoint, method: str, path: str) -> None:
    answer = httpx.request(method, f"{plain.record.url}/{path}", json={} if method == "POST" else None)
    assert answer.status_code == httpx.codes.FORBIDDEN
    assert "restricted" in answer.json()["error"]


@pytest.mark.parametrize("change", ["load", "unload"])
def test_the_model_repository_cannot_be_changed(plain: Endpoint, change: str) -> None:
    answer = httpx.post(f"{plain.record.url}/v2/repository/models/ensemble/{change}", json={})
    assert answer.is_error
    assert "not allowed" in answer.json()["error"]
    assert plain.text("hello", 2)


def test_the_gates_see_what_is_served(plain: Endpoint) -> None:
    ports = plain.record.ports
    with Client.open(GateEndpoint(host="127.0.0.1", http_port=ports.http, grpc_port=ports.grpc)) as client:
        assert client.models() == {"ensemble", "preprocessing", "postprocessing", "tensorrt_llm"}


@pytest.mark.parametrize("asked", ["get_log_settings", "get_system_shared_memory_status", "get_trace_settings"])
def test_so_it_is_by_grpc(plain: Endpoint, asked: str) -> None:
    with grpc.InferenceServerClient(f"127.0.0.1:{plain.record.ports.grpc}") as client:
        with pytest.raises(InferenceServerException, match="restricted"):
            getattr(client, asked)()
        assert client.is_server_ready()
