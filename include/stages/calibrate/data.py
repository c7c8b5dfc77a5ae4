"""Calibration text as fixed-length token blocks."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch  # noqa: TID253 - runs only in a target's environment

from include.errors import UserError
from include.reading import Limit, parse_json, read_bytes, read_lines
from include.stages.calibrate.parser import BUILTIN
from include.stages.quality import token_blocks, topics

FIELD = "field calib_data"
_READERS = {".parquet": "parquet", ".jsonl": "json", ".json": "json", ".csv": "csv", ".txt": "text"}
_NO_TEXT = frozenset({"dataset_infos.json", "dataset_dict.json", "state.json", "license.txt", "readme.txt"})
_TEXT_COLUMNS = ("text", "article", "content", "document")


def calibration_blocks(source: str, tokenizer: Any, count: int, length: int) -> torch.Tensor:  # noqa: ANN401
    """Int64 [count, length] token ids of ``source``: ``builtin``, a file or a dataset directory.

    Raises:
        UserError: the source is missing, not UTF-8, empty, or too short.
    """
    texts = iter(topics()[0] if source == BUILTIN else _documents(Path(source)))
    first = next(texts, None)
    if first is None:
        raise UserError("the calibration data holds no text", where=f"{FIELD}: {source}", fix="give a text")
    blocks = token_blocks(tokenizer, itertools.chain([first], texts), count, length)
    if len(blocks) < count:
        raise UserError(
            f"the calibration data gives {len(blocks)} samples of {length} tokens, {count} are asked for",
            where=f"{FIELD}: {source}",
            fix="give more text, or lower calib_size or calib_seq_len",
        )
    return blocks


def digest(blocks: torch.Tensor) -> str:
    """The sha256 of token ids, which identifies the calibration data."""
    return hashlib.sha256(blocks.to(torch.int64).cpu().numpy().tobytes()).hexdigest()


def _documents(path: Path) -> Iterator[str]:
    if path.is_dir():
        return _from_dataset(path)
    if not path.exists():
        raise UserError("the calibration data does not exist", where=f"{FIELD}: {path}", fix="check the path")
    if path.suffix not in (".txt", ".jsonl"):
        raise UserError(
            f"calibration files of type '{path.suffix}' are not read",
            where=f"{FIELD}: {path}",
            fix="use .txt (a document a line) or .jsonl (with a text field)",
        )
    return _lines(path) if path.suffix == ".txt" else _json_texts(path)


def _lines(path: Path) -> Iterator[str]:
    try:
        yield from (text for line in read_lines(path) if (text := line.strip()))
    except UnicodeDecodeError as error:
        raise UserError(
            f"the calibration data is not UTF-8 (byte 0x{error.object[error.start]:02x})",
            where=f"{FIELD}: {path}",
            fix="convert it: iconv -t UTF-8",
        ) from error
    except (OSError, ValueError) as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> UserError:
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return UserError(
        f"the calibration data cannot be read: {reason}",
        where=f"{FIELD}: {path}",
        fix="give a text file with a document a line, or .jsonl",
    )


def _json_rows(path: Path) -> Iterator[dict[str, Any]]:
    """The objects of JSON lines, or of one JSON list. ``datasets`` would end in SIGSEGV on deep JSON."""
    number, lines = 1, _lines(path)
    first = next(lines, "")
    whole = first.startswith("[")
    try:
        entries = _list(path) if whole else itertools.chain([first] if first else [], lines)
        for number, entry in enumerate(entries, start=1):  # noqa: B007 - the error names it
            row = entry if whole else parse_json(entry, finite=False)
            if not isinstance(row, dict):
                raise ValueError("it is not an object")
            yield row
    except ValueError as error:
        raise UserError(
            f"entry {number} is not a JSON object with a text field: {error}",
            where=f"{FIELD}: {path}",
            fix='write a JSON object a line, {"text": "..."}',
        ) from error


def _list(path: Path) -> Iterable[Any]:
    try:
        found: Iterable[Any] = parse_json(read_bytes(path, Limit.TOKENIZER), finite=False)
    except OSError as error:
        raise _unreadable(path, error) from error
    return found


def _json_texts(path: Path) -> Iterator[str]:
    for number, row in enumerate(_json_rows(path), start=1):
        if "text" not in row:
            raise UserError(f"entry {number} is not a JSON object with a text field", where=f"{FIELD}: {path}")
        if not isinstance(row["text"], str):
            raise UserError(f"the text field of entry {number} is no string", where=f"{FIELD}: {path}")
        if row["text"].strip():
            yield row["text"]


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
        yield from _json_rows(path) if reader == "json" else ({"text": line} for line in _lines(path))


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
