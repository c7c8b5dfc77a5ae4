"""Calibration text as fixed-length token blocks."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch  # noqa: TID253 - runs only in a target's environment

from include.errors import UserError
from include.stages.calibrate.parser import BUILTIN
from include.stages.quality import token_blocks
from include.stages.texts import FIELD, json_rows, text_lines, texts_of, too_short, topics

_READERS = {".parquet": "parquet", ".jsonl": "json", ".json": "json", ".csv": "csv", ".txt": "text"}
_NO_TEXT = frozenset({"dataset_infos.json", "dataset_dict.json", "state.json", "license.txt", "readme.txt"})
_TEXT_COLUMNS = ("text", "article", "content", "document")


def calibration_blocks(source: str, tokenizer: Any, count: int, length: int) -> torch.Tensor:  # noqa: ANN401
    """Int64 [count, length] token ids of ``source``: ``builtin``, a file or a dataset directory.

    Raises:
        UserError: the source is missing, not UTF-8, empty, or too short.
    """
    texts = _documents(source)
    first = next(texts, None)
    if first is None:
        raise UserError("the calibration data holds no text", where=f"{FIELD}: {source}", fix="give a text")
    blocks = token_blocks(tokenizer, itertools.chain([first], texts), count, length)
    if len(blocks) < count:
        raise too_short(len(blocks), count, length, source)
    return blocks


def _documents(source: str) -> Iterator[str]:
    if source == BUILTIN:
        return iter(topics()[0])
    return _from_dataset(Path(source)) if Path(source).is_dir() else texts_of(Path(source))


def digest(blocks: torch.Tensor) -> str:
    """The sha256 of token ids, which identifies the calibration data."""
    return hashlib.sha256(blocks.to(torch.int64).cpu().numpy().tobytes()).hexdigest()


def _from_dataset(folder: Path) -> Iterator[str]:
    """Streams a downloaded Hub dataset from its data files, whatever its card says; no code of it is run."""
    reader, files = _data_files(folder)
    rows = _own_rows(reader, files) if reader in {"json", "text"} else _foreign_rows(reader, files, folder)
    first: dict[str, Any] = next(rows, {})
    column = next((name for name in _TEXT_COLUMNS if isinstance(first.get(name), str)), "")
    if not column and first:
        raise UserError(
            f"the dataset has no text column, only {', '.join(map(str, first))}",
            where=f"{FIELD}: {folder}",
            fix=f"use one with a column named {' or '.join(_TEXT_COLUMNS)}",
        )
    texts = (row.get(column) for row in itertools.chain([first], rows))
    yield from (text for text in texts if isinstance(text, str) and text.strip())


def _own_rows(reader: str, files: list[str]) -> Iterator[dict[str, Any]]:
    for path in map(Path, files):
        yield from json_rows(path) if reader == "json" else ({"text": line} for line in text_lines(path))


def _foreign_rows(reader: str, files: list[str], folder: Path) -> Iterator[dict[str, Any]]:
    """The rows of the formats that ``datasets`` reads; what its parsers make of damage has no common class."""
    from datasets import load_dataset

    try:
        yield from load_dataset(reader, data_files=files, split="train", streaming=True)
    except Exception as error:
        raise UserError(f"the dataset cannot be read: {error}", where=f"{FIELD}: {folder}") from error


def _data_files(folder: Path) -> tuple[str, list[str]]:
    """The reader of the dataset's format and the files of its training split, or all if none is named so."""
    paths = [path for path in sorted(folder.rglob("*")) if not path.relative_to(folder).parts[0].startswith(".")]
    for suffix, reader in _READERS.items():
        files = [path for path in paths if path.suffix == suffix and path.name not in _NO_TEXT]
        if files:
            training = [path for path in files if "train" in str(path.relative_to(folder))]
            return reader, [str(path) for path in training or files]
    raise UserError(
        "the dataset has no data files",
        where=f"{FIELD}: {folder}",
        fix=f"use one with files of type {', '.join(_READERS)}",
    )
