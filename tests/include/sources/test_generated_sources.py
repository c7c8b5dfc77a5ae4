"""Generated models and Hub answers: our own errors only, in a moment, and nothing is written but what was asked for."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from include.errors import PipelineError, UserError
from include.model.config import ModelConfig
from include.sources import fetch, resolve, resolve_dataset
from tests.support import generated
from tests.support import tiny_files as tiny
from tests.support.hub_server import HubServer, Repo, Status, info, running

NAME = "org/tiny"
TOKENIZER = {
    "model_max_length": 10**30,
    "eos_token": {"content": "</s>", "special": True},
    "extra_special_tokens": ["<a>"],
    "chat_template": [{"name": "a", "template": "b"}],
    "tokenizer_class": "TokenizersBackend",
}
INDEX = json.loads(tiny.sharded_model()["model.safetensors.index.json"])
CONFIG = tiny.CONFIG | {"rope_scaling": {"rope_type": "yarn", "factor": 2.0}, "sliding_window": 5, "head_dim": 16}
HEADER = {
    "__metadata__": {"format": "pt"},
    "a": {"dtype": "F16", "shape": [4, 2], "data_offsets": [0, 16]},
    "b": {"dtype": "F16", "shape": [3], "data_offsets": [16, 22]},
}
LINKS = ["config.json", ".", "..", "/dev/zero", "/dev/tty", "/etc/passwd", "gone", "tokenizer.json"]


def safetensors(header: bytes) -> bytes:
    return len(header).to_bytes(8, "little") + header + bytes(22)


CONTENTS = st.one_of(
    st.tuples(st.just("config.json"), generated.damage(CONFIG)),
    st.tuples(st.just("tokenizer_config.json"), generated.damage(TOKENIZER)),
    st.tuples(st.just("tokenizer.json"), generated.damage({"model": {"vocab": {"a": 0}}})),
    st.tuples(st.just("model.safetensors.index.json"), generated.damage(INDEX)),
    st.tuples(st.just("model.safetensors"), generated.damage(HEADER).map(safetensors) | st.binary(max_size=100)),
)


@generated.bounded(150)
@given(changed=CONTENTS, sharded=st.booleans())
def test_a_local_model_is_right_or_the_users_matter(tmp_path: Path, changed: tuple[str, bytes], sharded: bool) -> None:
    folder, into = tmp_path / "model", tmp_path / "into"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.rmtree(into, ignore_errors=True)
    tiny.write((tiny.sharded_model() if sharded else tiny.model()) | dict([changed]), folder)
    with suppress(UserError):
        source = resolve(str(folder), "main", token=None, endpoint=None)
        with suppress(UserError):
            ModelConfig.parse(source.config, where=source.id)
        fetch(source, into, token=None, endpoint=None, log=lambda _: None)
        assert {path.name for path in into.rglob("*")} == {file.path for file in source.files}
    assert {path.name for path in tmp_path.iterdir()} <= {"model", "into"}


@generated.bounded(100)
@given(name=st.sampled_from(sorted(tiny.model())), kind=st.sampled_from(["fifo", "directory", *LINKS]))
def test_a_file_of_another_kind_is_the_users_matter(short_path: Path, name: str, kind: str) -> None:
    folder = short_path / "model"
    shutil.rmtree(folder, ignore_errors=True)
    path = tiny.write(tiny.model(), folder) / name
    path.unlink()
    {"fifo": os.mkfifo, "directory": Path.mkdir}.get(kind, lambda one: one.symlink_to(kind))(path)
    with suppress(UserError):
        resolve(str(folder), "main", token=None, endpoint=None)


@pytest.fixture(scope="module")
def shared_hub() -> Iterator[HubServer]:
    with running() as server:
        yield server


@generated.bounded(120)
@given(data=st.data(), kind=st.sampled_from(["model", "dataset"]))
def test_a_hub_answers_like_one_or_is_named(
    shared_hub: HubServer, tmp_path: Path, data: st.DataObject, kind: str
) -> None:
    card = {"configs": [{"config_name": "a", "data_files": [{"split": "train", "path": "*.txt"}]}]}
    files = tiny.model() | {"train.txt": b"text", "test.txt": b"text"}
    answer = info(shared_hub.add(Repo(NAME, files, kind=kind, card=card)))  # type: ignore[arg-type]
    shared_hub.heal()
    shared_hub.fail("revision", Status(200, data.draw(generated.damage(answer)).decode("utf-8", "replace")))
    ask = resolve if kind == "model" else resolve_dataset
    with suppress(PipelineError):
        source = ask(NAME, "main", token=None, endpoint=shared_hub.endpoint)
        assert source.model_validate_json(source.model_dump_json()) == source
        assert all((tmp_path / file.path).resolve().is_relative_to(tmp_path) for file in source.files)
