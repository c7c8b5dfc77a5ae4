"""Calibration texts: those that are built in, and those of a file on this machine."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from include.errors import UserError
from include.reading import Limit, parse_json, read_bytes, read_lines

FIELD = "field calib_data"
_CALIBRATION_SHARE = 0.85


def topics() -> tuple[list[str], list[str]]:
    """The built-in documents in a fixed order: those to calibrate on, and those held out."""
    from pydoc_data.topics import topics as texts

    documents = [texts[name] for name in sorted(texts)]
    cut = int(len(documents) * _CALIBRATION_SHARE)
    return documents[:cut], documents[cut:]


def texts_of(path: Path) -> Iterator[str]:
    """The documents of a text file or of JSON lines; UserError where it is neither, or damaged."""
    if not path.exists():
        raise UserError("the calibration data does not exist", where=f"{FIELD}: {path}", fix="check the path")
    if path.suffix not in (".txt", ".jsonl"):
        raise UserError(
            f"calibration files of type '{path.suffix}' are not read",
            where=f"{FIELD}: {path}",
            fix="use .txt (a document a line) or .jsonl (with a text field)",
        )
    return text_lines(path) if path.suffix == ".txt" else _json_texts(path)


def text_lines(path: Path) -> Iterator[str]:
    """The lines of a text file that are not empty."""
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


def json_rows(path: Path) -> Iterator[dict[str, Any]]:
    """The objects of JSON lines, or of one JSON list. ``datasets`` would end in SIGSEGV on deep JSON."""
    number, lines = 1, text_lines(path)
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
    for number, row in enumerate(json_rows(path), start=1):
        if "text" not in row:
            raise UserError(f"entry {number} is not a JSON object with a text field", where=f"{FIELD}: {path}")
        if not isinstance(row["text"], str):
            raise UserError(f"the text field of entry {number} is no string", where=f"{FIELD}: {path}")
        if row["text"].strip():
            yield row["text"]


def check_length(found: Iterable[int], count: int, length: int, source: str) -> None:
    """Raises `UserError` unless documents of so many tokens each make ``count`` samples of ``length``."""
    total = 0
    for tokens in found:
        total += tokens
        if total >= count * length:
            return
    raise too_short(total // length, count, length, source)


def too_short(found: int, count: int, length: int, source: str) -> UserError:
    """The failure of text that makes ``found`` samples."""
    return UserError(
        f"the calibration data gives {found} samples of {length} tokens, {count} are asked for",
        where=f"{FIELD}: {source}",
        fix="give more text, or lower calib_size or calib_seq_len",
    )
