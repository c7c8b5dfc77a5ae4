"""The Makefile's cleaning, and the locks that all installs use."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from include.settings import PROJECT

OPENVINO = PROJECT / "include" / "targets" / "openvino"
VLLM = OPENVINO.parent / "vllm"
LOCKS = sorted(
    path
    for folder in (PROJECT, PROJECT / "tests", PROJECT / "include" / "deploy", OPENVINO, VLLM)
    for path in (*folder.glob("requirements*.txt"), *folder.glob("modelopt.txt"))
)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    shutil.copy(PROJECT / "Makefile", tmp_path)
    for name in (".local/artifacts/release.json", ".local/airflow/airflow.db", ".venvs/x", ".mypy_cache/x"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    return tmp_path


def make(checkout: Path, *argv: str, answer: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(["make", "-C", checkout, *argv], input=answer, capture_output=True, text=True)


def test_clean_keeps_releases_and_the_database(checkout):
    assert make(checkout, "clean").returncode == 0
    assert sorted(path.name for path in checkout.iterdir()) == [".local", "Makefile"]
    assert (checkout / ".local/artifacts/release.json").exists()
    assert (checkout / ".local/airflow/airflow.db").exists()


@pytest.mark.parametrize("answer", ["", "no\n", "y\n", "YES\n"])
def test_purge_without_a_yes_removes_nothing(checkout, answer):
    done = make(checkout, "purge", answer=answer)
    assert done.returncode != 0
    assert "nothing was removed" in done.stdout
    assert (checkout / ".local/artifacts/release.json").exists()
    assert (checkout / ".venvs").exists()


@pytest.mark.parametrize(("argv", "answer"), [((), "yes\n"), (("FORCE=1",), ""), (("FORCE=yes",), "")])
def test_purge_with_a_yes_removes_all(checkout, argv, answer):
    assert make(checkout, "purge", *argv, answer=answer).returncode == 0
    assert [path.name for path in checkout.iterdir()] == ["Makefile"]


@pytest.mark.parametrize("lock", LOCKS, ids=lambda path: str(path.relative_to(PROJECT)))
def test_each_locked_package_has_a_version_and_hashes(lock):
    text = lock.read_text().replace("\\\n", " ")
    packages = [line for line in text.splitlines() if line and not line.lstrip().startswith("#")]
    assert packages
    assert [line for line in packages if "==" not in line or not re.search(r"--hash=sha256:[0-9a-f]{64}\b", line)] == []


def test_every_install_requires_hashes():
    for path in (PROJECT / "Makefile", PROJECT / "include/deploy/Dockerfile", OPENVINO / "Dockerfile"):
        text = path.read_text().replace("\\\n", " ")
        installs = [line for line in text.splitlines() if re.search(r"pip install|install=|\) install", line)]
        assert installs, path
        assert [line for line in installs if "--require-hashes" not in line] == []


def test_torch_is_the_version_that_the_environment_names():
    named = re.search(r"^torch==(\S+)", (OPENVINO / "requirements.in").read_text(), re.MULTILINE)
    locked = re.search(r"^torch==(\S+)", (OPENVINO / "requirements-torch.txt").read_text(), re.MULTILINE)
    assert named
    assert locked
    assert named[1] == locked[1]
