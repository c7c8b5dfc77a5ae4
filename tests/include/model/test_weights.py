from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from include.errors import UserError
from include.model.weights import Weights, read_tensors
from tests.support import tiny_files as tiny

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
    assert read_tensors(tmp_path / "x.safetensors").keys() == {"a", "b"}


def test_passes_a_dtype_of_half_a_byte(tmp_path: Path) -> None:
    (tmp_path / "x.safetensors").write_bytes(with_header({"b": entry(16, 22, [12], "F4")}))
    assert read_tensors(tmp_path / "x.safetensors").keys() == {"a", "b"}


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"\x08\0\0", id="shorter-than-the-length"),
        pytest.param(WHOLE[:-1], id="one-byte-short"),
        pytest.param(WHOLE[:40], id="cut-in-the-header"),
        pytest.param(WHOLE + b"x", id="one-byte-more"),
        pytest.param((1 << 62).to_bytes(8, "little") + WHOLE[8:], id="huge-length"),
        pytest.param((4).to_bytes(8, "little") + b"[1] ", id="header-not-an-object"),
        pytest.param((4).to_bytes(8, "little") + b"\xff\xff{}", id="header-not-utf-8"),
        pytest.param(with_header({"b": {"dtype": "F16"}}), id="entry-without-offsets"),
        pytest.param(with_header({"b": entry(16, 22, [4])}), id="shape-does-not-fit"),
        pytest.param(with_header({"b": entry(14, 22, [4])}), id="overlap"),
        pytest.param(with_header({"b": entry(16, 22, [3], "X16")}), id="dtype-that-cannot-be-loaded"),
        pytest.param(with_header({"b": entry(18, 22, [2])}), id="gap"),
        pytest.param(with_header({"b": entry(16, 10, [-3])}), id="backwards"),
        pytest.param(with_header({"b": entry(16, 22, [3] + [1] * 20_000)}), id="20,000-dimensions"),
        pytest.param(with_header({"b": entry(16, 22, [2**62, 2**62])}), id="more-than-64-bits"),
        pytest.param(with_header({"b": entry(16, 22, [10**400])}), id="400-digits"),
        pytest.param((99_999).to_bytes(8, "little") + b'{"a":' * 20_000, id="deep-header"),
        pytest.param((90 << 20).to_bytes(8, "little") + b"{", id="header-of-90-MB"),
    ],
)
def test_refuses_a_file_that_is_not_whole(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)
    with pytest.raises(UserError, match="x.safetensors is not a valid safetensors file") as caught:
        read_tensors(path)
    assert caught.value.where == f"field model: {path}"


def test_refuses_an_index_that_promises_other_tensors(tmp_path: Path) -> None:
    files = tiny.sharded_model()
    index = json.loads(files["model.safetensors.index.json"])
    index["weight_map"]["lm_head"] = "model-00001-of-00002.safetensors"
    tiny.write(files | {"model.safetensors.index.json": json.dumps(index).encode()}, tmp_path)
    with pytest.raises(UserError, match="lacks the tensor lm_head"):
        Weights.read(tmp_path)


def test_names_a_file_that_is_missing(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="model.safetensors is missing") as caught:
        Weights.read(tmp_path)
    assert caught.value.where == f"field model: {tmp_path / 'model.safetensors'}"


@pytest.mark.parametrize("sharded", [False, True], ids=["one file", "shards"])
def test_counts_the_bytes_of_all_weights(tmp_path: Path, sharded: bool) -> None:
    tiny.write(tiny.sharded_model() if sharded else tiny.model(), tmp_path)
    assert Weights.read(tmp_path).size == sum(path.stat().st_size for path in tmp_path.glob("*.safetensors"))


def test_one_file_goes_before_an_index(tmp_path: Path) -> None:
    tiny.write({**tiny.sharded_model(), **tiny.model()}, tmp_path)
    assert Weights.read(tmp_path).size == (tmp_path / "model.safetensors").stat().st_size


@pytest.mark.parametrize("index", [b"{", b"[]", b"{}", b'{"weight_map": 1}', b"\xff"])
def test_names_an_index_that_cannot_be_read(tmp_path: Path, index: bytes) -> None:
    tiny.write({**tiny.sharded_model(), "model.safetensors.index.json": index}, tmp_path)
    with pytest.raises(UserError, match="index.json cannot be read"):
        Weights.read(tmp_path)


def tied(folder: Path, change: bytes = b"", dtype: str = "F16") -> Weights:
    """Weights whose output layer is the embedding's but for its last bytes."""
    tensors = {"a": (4, 2), "lm_head.weight": (256, 64), "model.embed_tokens.weight": (256, 64)}
    content = tiny.safetensors(tensors, {"lm_head.weight": dtype})
    size = 256 * 64 * 2
    embedding = content[-size:]
    head = embedding[: size - len(change)] + change
    start = len(content) - size - len(head)
    (folder / "model.safetensors").write_bytes(content[:start] + head + embedding)
    return Weights.read(folder)


def test_an_output_layer_that_is_the_embedding_may_be_stored_twice(tmp_path: Path) -> None:
    tied(tmp_path).check_tied("model.embed_tokens.weight")


@pytest.mark.parametrize("dtype", ["F16", "BF16"])
def test_refuses_an_output_layer_of_its_own_that_is_said_to_be_the_embedding(tmp_path: Path, dtype: str) -> None:
    change = b"trained apart" * 2000 if dtype == "F16" else b""
    with pytest.raises(UserError, match=r"hold an lm_head.weight of its own, and config.json ties it") as caught:
        tied(tmp_path, change, dtype).check_tied("model.embed_tokens.weight")
    assert "set tie_word_embeddings to false" in caught.value.fix
