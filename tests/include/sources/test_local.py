from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from include.errors import HostError, UserError
from include.sources import ModelSource, fetch, resolve
from tests.support import tiny_files as tiny

WEIGHTS = "model.safetensors"
NOBODY = 65534


def ask(model: Path | str) -> ModelSource:
    return resolve(str(model), "main", token=None, endpoint=None)


def get(source: ModelSource, into: Path) -> list[str]:
    lines: list[str] = []
    fetch(source, into, token=None, endpoint=None, log=lines.append)
    return lines


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return tiny.write(tiny.model() | {"README.md": b"#", "pytorch_model.bin": b"pickle"}, tmp_path / "model")


@pytest.mark.parametrize("files", [tiny.model(), tiny.sharded_model()], ids=["one-file", "shards"])
def test_copies_the_needed_files(tmp_path: Path, files: dict[str, bytes]) -> None:
    source = ask(tiny.write(files | {"README.md": b"#", "x.bin": b"pickle"}, tmp_path / "model"))
    log = get(source, tmp_path / "into")
    assert {path.name: path.read_bytes() for path in (tmp_path / "into").iterdir()} == files
    assert log[-1].startswith(f"copied and verified {len(files)} files")


def test_the_commit_is_that_of_the_content(model: Path, tmp_path: Path) -> None:
    source = ask(model)
    elsewhere = shutil.copytree(model, tmp_path / "elsewhere")
    (elsewhere / "README.md").write_text("changed")
    assert ask(elsewhere).commit == source.commit
    (elsewhere / "tokenizer.json").write_text('{"model": {"changed": 1}}')
    assert ask(elsewhere).commit != source.commit


def test_survives_json(model: Path) -> None:
    source = ask(model)
    assert (source.origin, source.id, source.revision) == ("local", str(model), "local")
    assert ModelSource.model_validate_json(source.model_dump_json()) == source


def test_an_edit_in_place_does_not_reach_what_was_fetched(model: Path, tmp_path: Path) -> None:
    get(ask(model), tmp_path / "into")
    with (model / WEIGHTS).open("r+b") as stream:
        stream.write(b"broken")
    assert (tmp_path / "into" / WEIGHTS).read_bytes() == tiny.model()[WEIGHTS]


def test_follows_links_that_stay_inside(model: Path, tmp_path: Path) -> None:
    (model / "blobs").mkdir()
    (model / WEIGHTS).rename(model / "blobs" / "weights")
    (model / WEIGHTS).symlink_to("blobs/weights")
    (tmp_path / "link").symlink_to(model)
    get(ask(tmp_path / "link"), tmp_path / "into")
    assert (tmp_path / "into" / WEIGHTS).read_bytes() == tiny.model()[WEIGHTS]
    assert not (tmp_path / "into" / WEIGHTS).is_symlink()


def link_outside(model: Path) -> None:
    shutil.move(model / "tokenizer.json", model.parent / "secret")
    (model / "tokenizer.json").symlink_to("../secret")


def cut_weights(model: Path) -> None:
    (model / WEIGHTS).write_bytes(tiny.model()[WEIGHTS][:-2])


def only_pickles(model: Path) -> None:
    (model / WEIGHTS).unlink()


def index_without_shards(model: Path) -> None:
    (model / WEIGHTS).unlink()
    (model / f"{WEIGHTS}.index.json").write_text('{"weight_map": {"a": "model-1.safetensors"}}')


def index_that_leaves(model: Path) -> None:
    (model / WEIGHTS).unlink()
    (model / f"{WEIGHTS}.index.json").write_text('{"weight_map": {"a": "../x.safetensors"}}')


def a_file_instead(model: Path) -> None:
    shutil.rmtree(model)
    model.write_text("x")


BROKEN = [
    pytest.param(lambda model: (model / "config.json").unlink(), "has no config.json", id="no-config"),
    pytest.param(only_pickles, "has no safetensors weights", id="pickles"),
    pytest.param(index_without_shards, "shards that are not there: model-1.safetensors", id="missing-shard"),
    pytest.param(index_that_leaves, "cannot be read: '../x.safetensors' is not a path inside", id="index-leaves"),
    pytest.param(cut_weights, "not a valid safetensors file", id="cut-weights"),
    pytest.param(link_outside, "outside the model's directory", id="link-outside"),
    pytest.param(
        lambda model: (model / "vocab.json").symlink_to("gone"), "cannot be read: No such file", id="dangling"
    ),
    pytest.param(lambda model: (model / "merges.txt").mkdir(), "cannot be read: Is a directory", id="directory"),
    pytest.param(lambda model: (model / "config.json").write_bytes(b"\xff"), "not UTF-8", id="not-utf-8"),
    pytest.param(shutil.rmtree, "does not exist", id="missing"),
    pytest.param(a_file_instead, "is not a directory", id="a-file"),
]


@pytest.mark.parametrize(("break_it", "words"), BROKEN)
def test_refuses(model: Path, break_it: Callable[[Path], object], words: str) -> None:
    break_it(model)
    with pytest.raises(UserError) as caught:
        ask(model)
    assert words in str(caught.value)
    assert str(model) in caught.value.where
    assert caught.value.fix


@pytest.mark.parametrize("path", ["./model", "../model", "~/model", "C:\\models\\tiny"])
def test_refuses_a_path_that_is_not_absolute(path: str) -> None:
    with pytest.raises(UserError, match="not an absolute path") as caught:
        ask(path)
    assert caught.value.where == f"field model: {path}"


@pytest.fixture
def unprivileged() -> Iterator[None]:
    """Root may read everything; so be somebody else for the test."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(NOBODY)
    yield
    os.seteuid(0)


@pytest.mark.usefixtures("unprivileged")
def test_names_a_file_that_may_not_be_read() -> None:
    with tempfile.TemporaryDirectory() as directory:
        model = tiny.write(tiny.model(), Path(directory))
        (model / WEIGHTS).chmod(0)
        with pytest.raises(UserError, match="cannot be read: Permission denied") as caught:
            ask(model)
        assert caught.value.where == f"field model: {model / WEIGHTS}"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        pytest.param(lambda path: path.write_bytes(b"{ }"), "has changed since the run began", id="changed"),
        pytest.param(lambda path: path.unlink(), "is gone since the run began", id="gone"),
    ],
)
def test_notices_a_change_since_it_was_resolved(
    model: Path, tmp_path: Path, change: Callable[[Path], object], words: str
) -> None:
    source = ask(model)
    change(model / "tokenizer_config.json")
    with pytest.raises(UserError, match=words):
        get(source, tmp_path / "into")


def test_a_full_disk_is_the_hosts_matter(model: Path, tmp_path: Path) -> None:
    source = ask(model)
    (tmp_path / "into").mkdir()
    (tmp_path / "into" / WEIGHTS).symlink_to("/dev/full")
    with pytest.raises(HostError, match="No space left on device") as caught:
        get(source, tmp_path / "into")
    assert "free some space" in caught.value.fix


def test_a_directory_that_cannot_be_written_is_the_hosts_matter(model: Path, tmp_path: Path) -> None:
    (tmp_path / "into").write_text("a file is in the way")
    with pytest.raises(HostError, match="cannot be used"):
        get(ask(model), tmp_path / "into")
