"""Safetensors weights: every file whole, with every tensor that the index promises. Only headers are read."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path

from safetensors import SafetensorError, safe_open

from include.errors import UserError
from include.model.files import INDEX_FILE, WEIGHTS_FILE


def check_weights(folder: Path) -> int:
    """The bytes of all weights of the model in ``folder``, where, as in transformers, one file goes before an index.

    Raises:
        UserError: names a file that is missing, cut, damaged, or lacks a tensor.
    """
    index, expected = folder / INDEX_FILE, {WEIGHTS_FILE: frozenset[str]()}
    if index.exists() and not (folder / WEIGHTS_FILE).exists():
        expected = promised_tensors(index.read_bytes(), f"field model: {index}")
    for file, tensors in expected.items():
        if lost := tensors - tensor_names(folder / file):
            raise UserError(
                f"{file} lacks the tensor {min(lost)} that {INDEX_FILE} promises",
                where=f"field model: {folder / file}",
                fix="save the model again: index and shards are not of one save",
            )
    return sum((folder / file).stat().st_size for file in expected)


def promised_tensors(index: str | bytes, where: str) -> dict[str, frozenset[str]]:
    """The names of the tensors in each shard, by the JSON of an index; UserError for one that cannot be read."""
    shards = defaultdict(set)
    try:
        for tensor, file in json.loads(index)["weight_map"].items():
            shards[str(file)].add(tensor)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{INDEX_FILE} cannot be read: {error}", where=where, fix="repair the model's index") from error
    return {file: frozenset(shards[file]) for file in sorted(shards)}


def tensor_names(path: Path) -> frozenset[str]:
    """The names of the tensors in a safetensors file whose header matches its size; UserError for any other file."""
    try:
        with safe_open(path, framework="np") as file:
            return frozenset(file.keys())
    except FileNotFoundError as error:
        raise UserError(
            f"{path.name} is missing",
            where=f"field model: {path}",
            fix="use a model with safetensors weights, completely downloaded",
        ) from error
    except (OSError, SafetensorError) as error:
        raise UserError(
            f"{path.name} is not a valid safetensors file: {error}",
            where=f"field model: {path}",
            fix="get the file again from where it was made, or save the model again",
        ) from error
