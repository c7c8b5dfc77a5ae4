from __future__ import annotations

import sys
from pathlib import Path

import pytest

from include.errors import HostError
from include.targets import pytriton
from include.targets.pytriton import Environment
from include.triton.servers import Ports

from .conftest import PYTHON

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


def test_server_binds_where_it_is_told() -> None:
    plan = pytriton.server("openvino", pytriton.ask(PYTHON), Path("/r"), Ports(http=1, grpc=2, metrics=3), "127.0.0.2")
    for service in ("http", "grpc", "metrics"):
        assert f"--{service}-address=127.0.0.2" in plan.argv
