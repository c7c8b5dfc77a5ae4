from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from include.errors import HostError, UserError
from include.sources import SourceFile, require_disk
from include.sources.files import digest_of
from include.sources.progress import Progress
from include.sources.weights import check_weights, safetensors_names
from tests.support import tiny_files as tiny

DIGEST = f"sha256:{0:064}"
SHAPES = {"a": (4, 2), "b": (3,)}
WHOLE = tiny.safetensors(SHAPES)


def with_header(change: dict[str, Any]) -> bytes:
    """``WHOLE`` with entries of the header changed, data as it was."""
    length = int.from_bytes(WHOLE[:8], "little")
    header = json.loads(WHOLE[8 : 8 + length])
    text = json.dumps(header | change).encode()
    return len(text).to_bytes(8, "little") + text + WHOLE[8 + length :]


def entry(begin: int, end: int, shape: list[int], dtype: str = "F16") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def test_reads_the_names_of_a_whole_file(tmp_path: Path) -> None:
    (tmp_path / "x.safetensors").write_bytes(WHOLE)
    assert safetensors_names(tmp_path / "x.safetensors") == {"a", "b"}


def test_passes_a_dtype_that_it_does_not_know(tmp_path: Path) -> None:
    (tmp_path / "x.safetensors").write_bytes(with_header({"b": entry(16, 22, [12], "F4")}))
    assert safetensors_names(tmp_path / "x.safetensors") == {"a", "b"}


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"\x08\0\0", id="shorter-than-the-length"),
        pytest.param(WHOLE[:-1], id="one-byte-short"),
        pytest.param(WHOLE[:40], id="cut-in-the-header"),
        pytest.param(WHOLE + b"x", id="one-byte-more"),
        pytest.param((1 << 62).to_bytes(8, "little") + WHOLE[8:], id="huge-length"),
        pytest.param(b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n", id="lfs-pointer"),
        pytest.param((4).to_bytes(8, "little") + b"[1] ", id="header-not-an-object"),
        pytest.param((4).to_bytes(8, "little") + b"\xff\xff{}", id="header-not-utf-8"),
        pytest.param(with_header({"b": {"dtype": "F16"}}), id="entry-without-offsets"),
        pytest.param(with_header({"b": entry(16, 22, [4])}), id="shape-does-not-fit"),
        pytest.param(with_header({"b": entry(14, 22, [4])}), id="overlap"),
        pytest.param(with_header({"b": entry(18, 22, [2])}), id="gap"),
        pytest.param(with_header({"b": entry(16, 10, [-3])}), id="backwards"),
    ],
)
def test_refuses_a_file_that_is_not_whole(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)
    with pytest.raises(UserError, match="x.safetensors is not a valid safetensors file") as caught:
        safetensors_names(path)
    assert caught.value.where == f"field model: {path}"


def test_refuses_an_index_that_promises_other_tensors(tmp_path: Path) -> None:
    files = tiny.sharded_model()
    index = json.loads(files["model.safetensors.index.json"])
    index["weight_map"]["lm_head"] = "model-00001-of-00002.safetensors"
    tiny.write(files | {"model.safetensors.index.json": json.dumps(index).encode()}, tmp_path)
    listed = [SourceFile(path=name, size=0, digest=DIGEST) for name in files]
    with pytest.raises(UserError, match="lacks the tensor lm_head"):
        check_weights(tmp_path, listed)


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

    with Progress(tmp_path, 4_000_000, log):
        (tmp_path / ".cache").mkdir()
        (tmp_path / ".cache" / "x.incomplete").write_bytes(bytes(2_000_000))
        assert told.wait(10)
    assert {line.rpartition(" ")[2] for line in lines} == {"MB/s"}
