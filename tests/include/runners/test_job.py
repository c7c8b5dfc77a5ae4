"""The code that travels with a stage program is one list: in the container and in the artifact's key."""

from __future__ import annotations

import ast
import io
import shutil
import tarfile
from pathlib import Path

import pytest

from include.runners import container, job
from include.settings import PROJECT

PROGRAMS = sorted(f"include.stages.{path.parent.name}" for path in PROJECT.glob("include/stages/*/__main__.py"))
CALIBRATE = "include.stages.calibrate"


def files_of(roots: tuple[Path, ...]) -> set[Path]:
    return {path for root in roots for path in ([root] if root.is_file() else root.rglob("*.py"))}


def imported(path: Path) -> set[Path]:
    """The files of this project that ``path`` imports."""
    found: set[Path] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        else:
            continue
        for name in names:
            place = PROJECT.joinpath(*name.split("."))
            found |= {file for file in (place.with_suffix(".py"), place / "__init__.py") if file.is_file()}
    return found


def archived() -> list[str]:
    with tarfile.open(fileobj=io.BytesIO(container.code_archive())) as tar:
        return tar.getnames()


def all_imported(module: str) -> set[Path]:
    known: set[Path] = set()
    ahead = set(PROJECT.joinpath(*module.split(".")).rglob("*.py"))
    while ahead:
        known |= ahead
        ahead = {file for path in ahead for file in imported(path)} - known
    return known


def test_there_are_programs() -> None:
    assert CALIBRATE in PROGRAMS
    assert PROJECT / "include" / "model" / "config.py" in all_imported(CALIBRATE)


@pytest.mark.parametrize("module", PROGRAMS)
def test_all_that_a_program_imports_is_in_its_container_and_counts_in_its_key(module: str) -> None:
    carried = {PROJECT / Path(name).relative_to(container.CODE_ROOT.lstrip("/")) for name in archived()}
    counted = files_of(job.travelling_code(module))
    assert all_imported(module) <= counted <= carried


def test_a_container_gets_no_file_twice_and_nothing_compiled() -> None:
    names = archived()
    assert len(names) == len(set(names))
    assert not [name for name in names if "__pycache__" in name]


@pytest.mark.parametrize(
    ("file", "changes"),
    [
        ("model/config.py", True),
        ("model/architectures.py", True),
        ("model/new.py", True),
        ("errors.py", True),
        ("reading.py", True),
        ("stages/checkpoint.py", True),
        ("stages/calibrate/export.py", True),
        ("stages/build_openvino/stage.py", False),
        ("targets/estimates.py", False),
    ],
)
def test_what_a_program_runs_changes_its_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str, changes: bool
) -> None:
    for name in ("model", "stages"):
        shutil.copytree(PROJECT / "include" / name, tmp_path / "include" / name)
    for name in ("errors.py", "reading.py", "__init__.py"):
        shutil.copy(PROJECT / "include" / name, tmp_path / "include")
    monkeypatch.setattr(job, "PROJECT", tmp_path)
    before = job.stage_code(CALIBRATE)
    (tmp_path / "include" / "targets").mkdir()
    with (tmp_path / "include" / file).open("a") as stream:
        stream.write("# changed\n")
    assert (job.stage_code(CALIBRATE) != before) == changes
