from __future__ import annotations

import re
import threading
from pathlib import Path

import pytest
from pydantic import ValidationError

from include.errors import HostError
from include.sources import SourceFile, require_disk
from include.sources.files import digest_of
from include.sources.progress import progress

DIGEST = f"sha256:{0:064}"


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("git-sha1", "ce013625030ba8dba906f756967f9e9ca394464a"),
        ("sha256", "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03"),
    ],
)
def test_hashes_like_git_and_sha256sum(tmp_path: Path, kind: str, expected: str) -> None:
    (tmp_path / "x").write_bytes(b"hello\n")
    assert digest_of(tmp_path / "x", kind) == f"{kind}:{expected}"


@pytest.mark.parametrize("path", ["", "/etc/passwd", "../x", "a/../../x", "a\\b", "a\0b"])
def test_a_file_lies_inside_its_source(path: str) -> None:
    with pytest.raises(ValidationError, match="not a path inside the source"):
        SourceFile(path=path, size=1, digest=DIGEST)


def test_a_source_cannot_be_changed() -> None:
    file = SourceFile(path="x", size=1, digest=DIGEST)
    with pytest.raises(ValidationError, match="frozen"):
        file.size = 2


def test_disk_that_is_there_is_enough(tmp_path: Path) -> None:
    require_disk(tmp_path / "not" / "yet", 1)


def test_disk_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(HostError, match=r"1,000,000,000,000 MB needed, .* MB free"):
        require_disk(tmp_path / "not" / "yet", 10**18)


def test_progress_is_told_in_plain_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("include.sources.progress.EVERY_S", 0.001)
    (tmp_path / "before").write_bytes(bytes(5_000_000))
    lines: list[str] = []
    told = threading.Event()

    def log(line: str) -> None:
        lines.append(line)
        if line.startswith("2.0 MB of 4.0 MB, "):
            told.set()

    with progress(tmp_path, 4_000_000, log):
        (tmp_path / ".cache").mkdir()
        (tmp_path / ".cache" / "x.incomplete").write_bytes(bytes(2_000_000))
        assert told.wait(10)
    assert all(re.search(r" MB/s(, about .+ left)?$", line) for line in lines)
