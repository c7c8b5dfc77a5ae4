"""A checkpoint's weights in the layout of compressed-tensors, which vLLM and transformers read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch  # noqa: TID253 - runs only in a target's environment

from include.model.files import CONFIG_FILE, INDEX_FILE
from include.stages.build_vllm.fold import folded
from include.stages.checkpoint import Checkpoint
from include.stages.formats.base import as_type

SHARD_BYTES = 4 << 30


def write_weights(checkpoint: Checkpoint, out: Path, shard_bytes: int = SHARD_BYTES) -> int:
    """Writes all tensors as safetensors files with an index, and ``config.json``; returns the quantized layers.

    Raises:
        UserError: the checkpoint's input scales do not fold.
        ToolError: a folded value is beyond the type that vLLM computes in.
    """
    shards = _Shards(out, shard_bytes)
    count = 0
    dtype = getattr(torch, checkpoint.config["dtype"])
    plain, offset = dict(checkpoint.plain()), checkpoint.architecture.norm_offset
    tied = torch.equal(plain["lm_head.weight"], plain["model.embed_tokens.weight"])
    if tied:
        del plain["lm_head.weight"]
    for index, (layer, norms) in enumerate(folded(checkpoint)):
        prefix = f"model.layers.{index}."
        for norm, factor in norms.items():
            name = f"{prefix}{norm}.weight"
            plain[name] = (plain[name].float() + offset) * factor - offset
        for name, linear in layer.items():
            count += 1
            for part, tensor in linear.compressed(dtype):
                shards.add(f"{prefix}{name}.{part}", tensor)
    for name, tensor in plain.items():
        shards.add(name, as_type(tensor, dtype, name))
    shards.close()
    (out / CONFIG_FILE).write_text(json.dumps(hf_config(checkpoint, tied), indent=1))
    return count


def hf_config(checkpoint: Checkpoint, tied: bool) -> dict[str, Any]:
    """``config.json`` as transformers 4 writes it for a model that compressed-tensors quantized."""
    fields = checkpoint.hf_fields()
    return {
        "model_type": fields["architectures"][0].removesuffix("ForCausalLM").lower(),
        **fields,
        "torch_dtype": checkpoint.config["dtype"],
        "tie_word_embeddings": tied,
        "quantization_config": checkpoint.format.quantization_config(checkpoint.group_size),
    }


class _Shards:
    """Safetensors files of about ``limit`` bytes each, so that a large model never stands in memory whole."""

    def __init__(self, out: Path, limit: int) -> None:
        self._out = out
        self._limit = limit
        self._tensors: dict[str, torch.Tensor] = {}
        self._files: dict[str, str] = {}
        self._bytes = 0
        self._number = 0

    def add(self, name: str, tensor: torch.Tensor) -> None:
        self._tensors[name] = tensor
        if sum(held.nbytes for held in self._tensors.values()) >= self._limit:
            self._flush()

    def close(self) -> None:
        """Writes what is left, and the index."""
        self._flush()
        index = {"metadata": {"total_size": self._bytes}, "weight_map": self._files}
        (self._out / INDEX_FILE).write_text(json.dumps(index, indent=1))

    def _flush(self) -> None:
        from safetensors.torch import save_file

        if not self._tensors:
            return
        self._number += 1
        file = f"model-{self._number:05d}.safetensors"
        save_file(self._tensors, self._out / file, metadata={"format": "pt"})
        (self._out / file).chmod(0o644)
        self._files |= dict.fromkeys(self._tensors, file)
        self._bytes += sum(held.nbytes for held in self._tensors.values())
        self._tensors = {}
