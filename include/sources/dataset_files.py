"""The choice of calibration text in a Hub data set: one subset, one split, one format, a bounded size."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any, NamedTuple

from include.errors import UserError
from include.sources.files import megabytes

_SUFFIXES = (".parquet", ".jsonl", ".json", ".csv", ".txt")
_NO_TEXT = frozenset(
    {"dataset_infos.json", "dataset_dict.json", "state.json", "license.txt", "readme.txt", "requirements.txt"}
)
# Of what a card declares: beyond, it is no declaration of files.
_MOST = 1000
_LONGEST = 500
_SPLITS = ("train", "validation", "test")


class Subset(NamedTuple):
    """One split of one configuration that the data set's card declares, as glob patterns of its files."""

    split: str
    patterns: tuple[str, ...]


def subsets(card: Mapping[str, Any]) -> list[Subset]:
    """The splits of the default (else the first) configuration of a card's ``configs``.

    The format: https://huggingface.co/docs/hub/datasets-manual-configuration. Other entries are
    left out.
    """
    configs = [config for config in _list(card.get("configs")) if isinstance(config, dict)]
    if not configs:
        return []
    chosen = next((config for config in configs if config.get("default")), configs[0])
    data_files = _list(chosen.get("data_files"))
    if plain := _patterns(data_files):
        return [Subset("train", plain)]
    named = ((item.get("split"), _patterns(_list(item.get("path")))) for item in data_files if isinstance(item, dict))
    return [Subset(split, paths) for split, paths in named if paths and isinstance(split, str) and _is_short(split)]


def _list(value: object) -> list[object]:
    """A card may name one thing or a list of them."""
    return value[:_MOST] if isinstance(value, list) else [value]


def _patterns(values: Sequence[object]) -> tuple[str, ...]:
    return tuple(value for value in values if isinstance(value, str) and _is_short(value))


def _is_short(text: str) -> bool:
    return 0 < len(text) <= _LONGEST and text.isprintable()


def choose_dataset_files(
    sizes: Mapping[str, int], declared: Sequence[Subset], max_bytes: int, where: str
) -> tuple[str, list[str]]:
    """The name of the split and its files, in order, from paths and ``sizes`` in bytes.

    The card's declaration counts; without one, names do: the first directory with ``train`` (else validation,
    test) in its files' names, else all files. Of several formats the first of parquet, jsonl, json, csv, txt.

    Raises:
        UserError: no text-like file, or the first one is larger than ``max_bytes``.
    """
    texts = sorted(path for path in sizes if _is_text(path))
    split, paths = _declared(texts, declared) or _by_name(texts)
    if not paths:
        raise UserError(
            "the data set has no text-like files",
            where=where,
            fix=f"name one with {', '.join(_SUFFIXES)} files",
        )
    suffix = next(suffix for suffix in _SUFFIXES if any(path.endswith(suffix) for path in paths))
    return split, _within(sizes, [path for path in paths if path.endswith(suffix)], max_bytes, where)


def _is_text(path: str) -> bool:
    name = PurePosixPath(path).name.lower()
    return name.endswith(_SUFFIXES) and name not in _NO_TEXT and not path.startswith(".")


def _declared(texts: Iterable[str], declared: Sequence[Subset]) -> tuple[str, list[str]] | None:
    if not declared:
        return None
    subset = next((subset for subset in declared if subset.split == "train"), declared[0])
    paths = [path for path in texts if any(_matches(path, pattern) for pattern in subset.patterns)]
    return (subset.split, paths) if paths else None


def _matches(path: str, pattern: str) -> bool:
    return fnmatch.fnmatchcase(path, pattern.removeprefix("./").replace("**/", "*"))


def _by_name(texts: Sequence[str]) -> tuple[str, list[str]]:
    for split in _SPLITS:
        paths = [path for path in texts if split in re.split(r"[^a-z0-9]+", path.lower())]
        if paths:
            first = PurePosixPath(paths[0]).parent
            return split, [path for path in paths if PurePosixPath(path).parent == first]
    return "all", list(texts)


def _within(sizes: Mapping[str, int], paths: Sequence[str], max_bytes: int, where: str) -> list[str]:
    if sizes[paths[0]] > max_bytes:
        raise UserError(
            f"{paths[0]} has {megabytes(sizes[paths[0]])}; up to {megabytes(max_bytes)} are fetched for text",
            where=where,
            fix="name a smaller data set, or a local .txt or .jsonl file with some of its documents",
        )
    chosen, total = [], 0
    for path in paths:
        total += sizes[path]
        if total > max_bytes:
            break
        chosen.append(path)
    return chosen
