# ruff: noqa: TID253
from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from include.errors import UserError
from include.stages.calibrate.data import calibration_blocks, digest
from tests.support import tiny_models as tiny

TEXTS = ["first document", "zweites Dokument: Äpfel", "third " * 10]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> PreTrainedTokenizerBase:
    folder = tmp_path_factory.mktemp("tokenizer")
    tiny.save_tokenizer(folder)
    return AutoTokenizer.from_pretrained(folder)


def _txt(folder: Path) -> Path:
    path = folder / "data.txt"
    path.write_text("\n".join(TEXTS) + "\n\n  \n", encoding="utf-8")
    return path


def _jsonl(folder: Path) -> Path:
    path = folder / "data.jsonl"
    entries = [{"text": text, "id": number} for number, text in enumerate([*TEXTS, " "])]
    path.write_text("\n".join(json.dumps(entry) for entry in entries), encoding="utf-8")
    return path


def _dataset(folder: Path) -> Path:
    path = folder / "dataset"
    (path / "data").mkdir(parents=True)
    lines = [json.dumps({"id": number, "article": text}) for number, text in enumerate(TEXTS)]
    (path / "data" / "train.jsonl").write_text("\n".join(lines), encoding="utf-8")
    (path / "data" / "test.jsonl").write_text('{"article": "other"}\n')
    # Only a part of what the card names was downloaded.
    (path / "README.md").write_text("---\nconfigs:\n- config_name: a\n  data_files: lost.csv\n---\n")
    (path / "dataset_infos.json").write_text("{}")
    return path


def _parquet(folder: Path) -> Path:
    path = folder / "dataset"
    path.mkdir()
    Dataset.from_dict({"text": [*TEXTS, None, " "]}).to_parquet(path / "0.parquet")
    return path


@pytest.mark.parametrize("make", [_txt, _jsonl, _dataset, _parquet], ids=["txt", "jsonl", "dataset", "parquet dataset"])
def test_every_kind_of_file_gives_the_same_tokens(
    tokenizer: PreTrainedTokenizerBase, tmp_path: Path, make: object
) -> None:
    blocks = calibration_blocks(str(make(tmp_path)), tokenizer, 3, 20)
    assert blocks.shape == (3, 20)
    text = tokenizer.decode(blocks[:, 1:].flatten())
    assert text.startswith("first document\n\nzweites Dokument: Äpfel\n\nthird")


def test_builtin_text_is_enough_for_the_defaults(tokenizer: PreTrainedTokenizerBase) -> None:
    assert calibration_blocks("builtin", tokenizer, 32, 512).shape == (32, 512)


def test_the_digest_tells_data_apart() -> None:
    blocks = tiny.small_blocks()
    assert digest(blocks) == digest(blocks.clone())
    assert digest(blocks) != digest(torch.flip(blocks, [0]))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        pytest.param("a.txt", b"", "holds no text", id="empty"),
        pytest.param("a.txt", b"\n \n", "holds no text", id="blank"),
        pytest.param("a.jsonl", b'{"text": " "}\n', "holds no text", id="blank entries"),
        pytest.param("a.txt", "Äpfel".encode("latin-1"), r"not UTF-8 \(byte 0xc4\)", id="latin-1"),
        pytest.param("a.jsonl", b'{"text": "\xff"}', r"not UTF-8 \(byte 0xff\)", id="jsonl not UTF-8"),
        pytest.param("a.jsonl", b'{"text": "a"}\n{"body": "b"}', "entry 2", id="no text field"),
        pytest.param("a.jsonl", b"plain", "entry 1", id="no JSON"),
        pytest.param("a.jsonl", b'{"text": 5}', "no string", id="text is a number"),
        pytest.param("a.txt", b"short", "gives 0 samples of 16 tokens, 4 are asked for", id="too short"),
        pytest.param("a.pdf", b"%PDF", r"type '\.pdf'", id="other type"),
        pytest.param("a.jsonl", b'{"text": "a"}\n{"text', "entry 2 is not a JSON object", id="no JSON in line 2"),
        pytest.param("a.txt", b"MZ\0\0", "zero byte", id="a program"),
        pytest.param("a.txt", b"x" * (17 << 20), "a line of more than 16,777,216 bytes", id="one huge line"),
        pytest.param("a.jsonl", b'{"text":' + b"[" * 100_000 + b"]" * 100_000 + b"}", "entry 1 .*recursion", id="deep"),
        pytest.param("a.jsonl", b'{"text": "\\ud800"}', "entry 1", id="half a pair"),
        pytest.param("a.jsonl", b'{"text": "a", "n": 1' + b"0" * 5000 + b"}", "entry 1", id="5,000 digits"),
        pytest.param("a.jsonl", b'["a"]', "entry 1 .*not an object", id="a list"),
        pytest.param("missing/", None, "does not exist", id="missing"),
    ],
)
def test_refuses_data_that_it_cannot_use(
    tokenizer: PreTrainedTokenizerBase, tmp_path: Path, name: str, content: bytes | None, message: str
) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=message) as caught:
        calibration_blocks(str(path), tokenizer, 4, 16)
    assert caught.value.where == f"field calib_data: {path}"


def test_names_the_columns_of_a_dataset_without_text(tokenizer: PreTrainedTokenizerBase, tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").write_text('{"id": 1, "label": "x"}\n')
    with pytest.raises(UserError, match="no text column, only id, label"):
        calibration_blocks(str(tmp_path), tokenizer, 1, 8)


def test_refuses_a_directory_without_data(tokenizer: PreTrainedTokenizerBase, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no data files"):
        calibration_blocks(str(tmp_path), tokenizer, 1, 8)


def test_refuses_a_damaged_dataset(tokenizer: PreTrainedTokenizerBase, tmp_path: Path) -> None:
    (tmp_path / "train.parquet").write_bytes(b"PAR1 no longer")
    with pytest.raises(UserError, match="dataset cannot be read"):
        calibration_blocks(str(tmp_path), tokenizer, 1, 8)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        pytest.param(os.mkfifo, "a FIFO", id="fifo"),
        pytest.param(lambda path: path.symlink_to("/dev/zero"), "a device", id="device"),
        pytest.param(lambda path: path.symlink_to(path.name), "does not exist", id="endless link"),
        pytest.param(lambda path: [path.touch(), os.truncate(path, 1 << 40)], "larger than", id="a terabyte"),
    ],
)
def test_refuses_what_is_no_file_to_read(
    tokenizer: PreTrainedTokenizerBase, tmp_path: Path, make: Callable[[Path], object], message: str
) -> None:
    make(tmp_path / "data.txt")
    with pytest.raises(UserError, match=message):
        calibration_blocks(str(tmp_path / "data.txt"), tokenizer, 1, 8)


DEEP = "[" * 100_000 + "]" * 100_000


@pytest.mark.parametrize(
    ("name", "content"),
    [
        pytest.param("train.jsonl", f'{{"text": {DEEP}}}'.encode(), id="deep jsonl"),
        pytest.param("train.json", DEEP.encode(), id="deep json"),
        pytest.param("train.json", b"{", id="half of json"),
        pytest.param("train.json", b"[1, 2]", id="numbers"),
        pytest.param("train.csv", b"\xff\xfe\0\0", id="binary csv"),
        pytest.param("train.csv", b"text\na\n\nb,c,d\n", id="ragged csv"),
        pytest.param("train.csv", b"", id="empty csv"),
        pytest.param("train.txt", b"\xff", id="binary text"),
        pytest.param("train.parquet", b"PAR1" + bytes(100) + b"PAR1", id="zeros as parquet"),
    ],
)
def test_a_hostile_dataset_is_the_users_matter(
    tokenizer: PreTrainedTokenizerBase, tmp_path: Path, name: str, content: bytes
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError):
        calibration_blocks(str(tmp_path), tokenizer, 1, 8)


def test_reads_a_dataset_that_is_one_json_list(tokenizer: PreTrainedTokenizerBase, tmp_path: Path) -> None:
    (tmp_path / "train.json").write_text(json.dumps([{"score": float("nan"), "content": text} for text in TEXTS]))
    assert calibration_blocks(str(tmp_path), tokenizer, 3, 20).shape == (3, 20)
