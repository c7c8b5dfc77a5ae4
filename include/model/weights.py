"""Safetensors weights: every file whole, with every tensor that the index promises. Only headers are read."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from include.errors import UserError
from include.model.config import OUTPUT_LAYER, ModelConfig
from include.model.files import CONFIG_FILE, INDEX_FILE, WEIGHTS_FILE, bad_file, read_file
from include.reading import Limit, open_regular, parse_json

_MAX_DIMENSIONS = 8
"""Of one tensor. Those of a decoder have two, and PyTorch ends at 64."""
_BUFFERS = (".rotary_emb.inv_freq", ".masked_bias", ".attn.bias")
"""Of what transformers computes anew, old versions of it saved a copy."""


def check_weights(folder: Path) -> int:
    """The bytes of all weights of the model in ``folder``, where, as in transformers, one file goes before an index.

    Raises:
        UserError: names a file that is missing, cut, damaged, or lacks a tensor.
    """
    expected = _files(folder)
    for file, tensors in expected.items():
        if lost := tensors - tensor_names(folder / file):
            raise UserError(
                f"{file} lacks the tensor {min(lost)} that {INDEX_FILE} promises",
                where=f"field model: {folder / file}",
                fix="save the model again: index and shards are not of one save",
            )
    return sum((folder / file).stat().st_size for file in expected)


def check_tensors(folder: Path, config: ModelConfig) -> None:
    """Raises `UserError` unless the files' tensors are those of a model of this configuration, by their names.

    transformers leaves out a tensor that the configuration does not speak of, such as a bias without
    ``attention_bias``, and the model answers a little worse than it should.
    """
    names = frozenset[str]().union(*(tensor_names(folder / file) for file in _files(folder)))
    known = config.tensor_names
    if lost := known - names - ({OUTPUT_LAYER} if config.tied_embeddings else set()):
        raise UserError(
            f"the model's files lack {len(lost)} weights, {min(lost)} for instance",
            where=f"field model: {folder}",
            fix="download it again",
        )
    if unused := sorted(name for name in names - known if not name.endswith(_BUFFERS)):
        raise UserError(
            f"the model's files hold {len(unused)} tensors that {CONFIG_FILE} does not speak of, "
            f"{unused[0]} for instance: without them it would be another model",
            where=f"field model: {folder}",
            fix=f"get {CONFIG_FILE} and the weights of one save; biases need attention_bias or mlp_bias in it",
        )


def _files(folder: Path) -> dict[str, frozenset[str]]:
    """The names of the weights' files, each with the tensors that the index promises."""
    index = folder / INDEX_FILE
    if index.exists() and not (folder / WEIGHTS_FILE).exists():
        return promised_tensors(read_file(index), f"field model: {index}")
    return {WEIGHTS_FILE: frozenset()}


def promised_tensors(index: str | bytes, where: str) -> dict[str, frozenset[str]]:
    """The names of the tensors in each shard, by the JSON of an index.

    Raises:
        UserError: the index cannot be read, or names a shard that would not lie beside it.
    """
    shards: dict[str, set[str]] = defaultdict(set)
    try:
        for tensor, file in _weight_map(parse_json(index)).items():
            shards[_shard(file)].add(tensor)
    except ValueError as error:
        raise UserError(f"{INDEX_FILE} cannot be read: {error}", where=where, fix="repair the model's index") from error
    return {file: frozenset(shards[file]) for file in sorted(shards)}


def _weight_map(index: Any) -> dict[str, Any]:  # noqa: ANN401 - any JSON
    found = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(found, dict):
        raise ValueError("it has no object weight_map")
    return found


def _shard(file: object) -> str:
    """The name of a shard: of a file beside the index, and nothing that a terminal or a log would obey."""
    if not isinstance(file, str) or "/" in file or "\\" in file or not file.isprintable() or len(file) > 255:
        raise ValueError(f"{str(file)[:80]!r} is not a path inside the model's directory itself")
    if not file.endswith(".safetensors"):
        raise ValueError(f"{file!r} is not a safetensors file")
    return file


def tensor_names(path: Path) -> frozenset[str]:
    """The names of the tensors in a safetensors file whose header matches its size; UserError for any other file."""
    try:
        _check_header(path)
        with safe_open(path, framework="np") as file:
            names = frozenset(file.keys())
            _check_shapes({name: file.get_slice(name).get_shape() for name in names})
    except FileNotFoundError as error:
        raise UserError(
            f"{path.name} is missing",
            where=f"field model: {path}",
            fix="use a model with safetensors weights, completely downloaded",
        ) from error
    except OSError as error:
        raise bad_file(path, error.strerror or str(error)) from error
    except (ValueError, SafetensorError) as error:
        raise UserError(
            f"{path.name} is not a valid safetensors file: {error}",
            where=f"field model: {path}",
            fix="get the file again from where it was made, or save the model again",
        ) from error
    return names


def _check_header(path: Path) -> None:
    """The library would read up to 100 MB of JSON, wait for a FIFO, and map an empty file."""
    with open_regular(path) as file:
        start = file.read(8)
    length = int.from_bytes(start, "little")
    if len(start) < 8 or length > Limit.HEADER:
        raise ValueError(f"its header would have {length:,} bytes, of at most {Limit.HEADER:,}")


def _check_shapes(shapes: dict[str, list[int]]) -> None:
    for name, shape in shapes.items():
        if len(shape) > _MAX_DIMENSIONS:
            raise ValueError(f"the tensor {name[:80]!r} has {len(shape)} dimensions, of at most {_MAX_DIMENSIONS}")
