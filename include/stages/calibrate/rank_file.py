"""Writes a safetensors file from tensors that are still on a GPU.

`safetensors.torch.save_file` needs all of them in host memory first: for a model of 70 billion parameters 36 GiB,
which take longer to allocate than to write.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

import torch  # noqa: TID253 - runs only in a target's environment

# Large enough that a copy or a write costs more than its call, small enough to be pinned at once.
_BUFFER_BYTES = 32 * 2**20
_DTYPES = {
    torch.float32: "F32",
    torch.bfloat16: "BF16",
    torch.float16: "F16",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.int8: "I8",
}


def save(tensors: Mapping[str, torch.Tensor], path: Path) -> None:
    """The same bytes as safetensors' ``save_file``, through one pinned buffer; the tensors must be contiguous."""
    ordered = sorted(tensors.items(), key=lambda item: (-item[1].itemsize, item[0]))
    buffer = torch.empty(_BUFFER_BYTES, dtype=torch.uint8, pin_memory=torch.cuda.is_available())
    with path.open("wb") as file:
        file.write(_header(ordered))
        for _, tensor in ordered:
            _write(tensor, buffer, file)


def _header(tensors: list[tuple[str, torch.Tensor]]) -> bytes:
    """8 bytes of length, then JSON with each tensor's place, padded so that the data is aligned."""
    entries, end = {}, 0
    for name, tensor in tensors:
        start, end = end, end + tensor.nbytes
        entries[name] = {"dtype": _DTYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [start, end]}
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text


def _write(tensor: torch.Tensor, buffer: torch.Tensor, file: BinaryIO) -> None:
    for piece in tensor.view(-1).view(torch.uint8).split(len(buffer)):
        held = buffer[: len(piece)].copy_(piece)
        file.write(held.numpy())
