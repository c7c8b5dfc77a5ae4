from __future__ import annotations

import json
import os
import shutil
import socket
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from include.errors import HostError, UserError
from include.sources import ModelSource, fetch, resolve
from tests.support import tiny_files as tiny

WEIGHTS = "model.safetensors"
DEEP = "[" * 100_000 + "]" * 100_000
NOBODY = 65534


def ask(model: Path | str) -> ModelSource:
    return resolve(str(model), "main", token=None, endpoint=None)


def get(source: ModelSource, into: Path) -> list[str]:
    lines: list[str] = []
    fetch(source, into, token=None, endpoint=None, log=lines.append)
    return lines


def bind(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(str(path))


def sparse(path: Path, size: int) -> None:
    path.touch()
    os.truncate(path, size)


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
    (elsewhere / "tokenizer.json").write_bytes(tiny.TOKENIZER + b" ")
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
    (model / f"{WEIGHTS}.index.json").write_text('{"metadata": {}, "weight_map": {"a": "model-1.safetensors"}}')


def index_that_leaves(model: Path) -> None:
    (model / WEIGHTS).unlink()
    (model / f"{WEIGHTS}.index.json").write_text('{"metadata": {}, "weight_map": {"a": "../x.safetensors"}}')


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


HOSTILE = [
    pytest.param("config.json", os.mkfifo, "It is a FIFO", id="fifo"),
    pytest.param("tokenizer_config.json", os.mkfifo, "It is a FIFO", id="fifo of the tokenizer"),
    pytest.param(WEIGHTS, os.mkfifo, "It is a FIFO", id="fifo of weights"),
    pytest.param(WEIGHTS, bind, "It is a socket", id="socket"),
    pytest.param("tokenizer.json", lambda path: path.symlink_to(path.name), "Too many levels", id="endless link"),
    pytest.param("vocab.json", lambda path: path.symlink_to("/dev/zero"), "outside the model's directory", id="device"),
    pytest.param("config.json", lambda path: sparse(path, 150 << 20), "larger than 8,388,608", id="150 MB"),
    pytest.param("tokenizer.json", lambda path: sparse(path, 1 << 40), "larger than", id="tokenizer of a terabyte"),
    pytest.param(f"{WEIGHTS}", lambda path: path.write_bytes(b"\xff" * 64), "its header would have", id="header"),
    pytest.param("tokenizer.json", lambda path: path.write_text(DEEP), "recursion limit", id="deep tokenizer"),
    pytest.param("config.json", lambda path: path.write_text(DEEP), "recursion limit", id="deep config"),
    pytest.param("generation_config.json", lambda path: path.write_text("[NaN]"), "cannot be read", id="nan"),
    pytest.param("special_tokens_map.json", lambda path: path.write_text("[]"), "not a JSON object", id="list"),
    pytest.param("chat_template.jinja", lambda path: path.write_bytes(b"\xff"), "not UTF-8", id="template"),
    pytest.param(
        "tokenizer_config.json", lambda path: path.write_text('{"eos_token": 5}'), "eos_token: ", id="token of a number"
    ),
    pytest.param(
        "tokenizer_config.json",
        lambda path: path.write_text('{"model_max_length": "x"}'),
        "model_max_length",
        id="text",
    ),
]


@pytest.mark.parametrize(("name", "make", "words"), HOSTILE)
def test_refuses_a_hostile_file_at_once(
    short_path: Path, name: str, make: Callable[[Path], object], words: str
) -> None:
    model = tiny.write(tiny.model(), short_path)
    (model / name).unlink(missing_ok=True)
    make(model / name)
    with pytest.raises(UserError) as caught:
        ask(model)
    assert words in str(caught.value)
    assert str(model / name) in caught.value.where
    assert caught.value.fix


@pytest.mark.parametrize(
    "shard",
    ["../x.safetensors", "/etc/x.safetensors", "a/x.safetensors", "a\nb.safetensors", "\x1b[31m.safetensors", "x.bin"],
)
def test_an_index_names_only_files_beside_it(model: Path, shard: str) -> None:
    (model / WEIGHTS).unlink()
    (model / f"{WEIGHTS}.index.json").write_text(json.dumps({"metadata": {}, "weight_map": {"a": shard}}))
    with pytest.raises(UserError, match="index.json cannot be read") as caught:
        ask(model)
    assert caught.value.what.isprintable()


def test_the_numbers_of_a_tokenizer_that_transformers_writes_are_taken(model: Path) -> None:
    settings = {
        "model_max_length": 10**30,
        "eos_token": {"content": "<end>"},
        "chat_template": [{"name": "a", "template": "b"}],
    }
    (model / "tokenizer_config.json").write_text(json.dumps(settings))
    assert ask(model).origin == "local"


def test_a_file_that_turns_into_a_fifo_is_not_waited_for(model: Path, tmp_path: Path) -> None:
    source = ask(model)
    (model / "tokenizer.json").unlink()
    os.mkfifo(model / "tokenizer.json")
    with pytest.raises(UserError, match="is gone since the run began"):
        get(source, tmp_path / "into")
