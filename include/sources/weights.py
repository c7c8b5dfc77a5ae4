"""Safetensors files: whole or not, told from their header alone and without PyTorch."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, Field

from include.errors import UserError
from include.sources.files import INDEX_FILE, SourceFile, field_model

_HEADER_LIMIT = 100_000_000
_DTYPE_BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E4M3": 8, "F8_E5M2": 8, "I16": 16, "U16": 16, "F16": 16, "BF16": 16,
    "I32": 32, "U32": 32, "F32": 32, "I64": 64, "U64": 64, "F64": 64,
}  # fmt: skip


class _Tensor(BaseModel):
    """A tensor's entry in a safetensors header; ``data_offsets`` count from the end of the header."""

    dtype: str
    shape: list[Annotated[int, Field(ge=0)]]
    data_offsets: tuple[int, int]


def safetensors_names(path: Path) -> frozenset[str]:
    """The names of the tensors in a safetensors file whose header matches its size.

    The format: 8 bytes little-endian length, JSON header, data without holes
    (https://huggingface.co/docs/safetensors). Reads the header only.

    Raises:
        UserError: the file is truncated, padded, or no safetensors file.
    """
    try:
        tensors, data_bytes = _read_header(path)
        _check_layout(tensors, data_bytes)
    except ValueError as error:
        raise UserError(
            f"{path.name} is not a valid safetensors file: {error}",
            where=field_model(path),
            fix="get the file again from where it was made, or save the model again",
        ) from error
    return frozenset(tensors)


def _read_header(path: Path) -> tuple[dict[str, _Tensor], int]:
    """The entries of the header and the number of bytes after it; ValueError if they cannot be."""
    size = path.stat().st_size
    with path.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if size < 8 or not 2 <= length <= min(size - 8, _HEADER_LIMIT):
            raise ValueError(f"its header of {length} bytes does not fit the {size} bytes of the file")
        header = json.loads(stream.read(length))
    if not isinstance(header, dict):
        raise ValueError("its header is not a JSON object")
    header.pop("__metadata__", None)
    return {name: _Tensor.model_validate(entry) for name, entry in header.items()}, size - 8 - length


def _check_layout(tensors: Mapping[str, _Tensor], data_bytes: int) -> None:
    """ValueError unless the tensors fill the data without gap or overlap."""
    end = 0
    for name, tensor in sorted(tensors.items(), key=lambda item: item[1].data_offsets):
        begin, stop = tensor.data_offsets
        if begin != end or stop < begin or not _fits(tensor):
            raise ValueError(f"tensor {name} has offsets {begin}..{stop} that do not fit")
        end = stop
    if end != data_bytes:
        raise ValueError(f"its header declares {end} bytes of data, the file holds {data_bytes}")


def _fits(tensor: _Tensor) -> bool:
    """Whether shape and dtype give the declared bytes; a dtype that is not known here passes."""
    begin, stop = tensor.data_offsets
    bits = _DTYPE_BITS.get(tensor.dtype)
    elements = 1
    for extent in tensor.shape:
        elements *= extent
    return bits is None or elements * bits == (stop - begin) * 8


def check_weights(directory: Path, files: Sequence[SourceFile]) -> None:
    """Checks that every safetensors file is whole and holds the tensors that the index promises of it.

    Raises:
        UserError: names the file.
    """
    shards = [file.path for file in files if file.path.endswith(".safetensors")]
    names = {shard: safetensors_names(directory / shard) for shard in shards}
    if not any(file.path == INDEX_FILE for file in files):
        return
    for tensor, shard in json.loads((directory / INDEX_FILE).read_text())["weight_map"].items():
        if tensor not in names[shard]:
            raise UserError(
                f"{shard} lacks the tensor {tensor} that {INDEX_FILE} promises",
                where=field_model(directory / shard),
                fix="save the model again: index and shards are not of one save",
            )
