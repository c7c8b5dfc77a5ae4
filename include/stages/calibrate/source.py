"""The model to be calibrated, judged by its config.json and file headers before any weight is loaded."""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from include.errors import UserError
from include.stages.checkpoint import ARCHITECTURES

GROUP_SIZES = (128, 64, 32, 16)
# What both TensorRT-LLM's RotaryScalingType and transformers know by the same name.
ROPE_TYPES = ("linear", "dynamic", "llama3", "yarn")


@dataclass(frozen=True)
class SourceModel:
    """What a Hugging Face config.json says. Sizes are in elements, ``weight_bytes`` as stored."""

    folder: Path
    architecture: str
    layers: int
    hidden_size: int
    intermediate_size: int
    heads: int
    kv_heads: int
    head_size: int
    vocab_size: int
    max_positions: int
    rope_theta: float
    rope_scaling: dict[str, Any] | None
    sliding_window: int | None
    weight_bytes: int

    @classmethod
    def read(cls, folder: Path) -> SourceModel:
        """Reads ``folder``; raises `UserError` when it is not a complete model of a supported architecture."""
        config = _read_json(folder / "config.json")
        architecture = (config.get("architectures") or ["none"])[0]
        if architecture not in ARCHITECTURES:
            raise UserError(
                f"architecture {architecture} is not supported",
                where=f"field model: {folder / 'config.json'}",
                fix=f"supported: {', '.join(ARCHITECTURES)}",
            )
        theta, scaling = _rope(config, folder)
        heads = _number(config, "num_attention_heads", folder)
        hidden_size = _number(config, "hidden_size", folder)
        return cls(
            folder=folder,
            architecture=architecture,
            layers=_number(config, "num_hidden_layers", folder),
            hidden_size=hidden_size,
            intermediate_size=_number(config, "intermediate_size", folder),
            heads=heads,
            kv_heads=config.get("num_key_value_heads") or heads,
            head_size=config.get("head_dim") or hidden_size // heads,
            vocab_size=_number(config, "vocab_size", folder),
            max_positions=_number(config, "max_position_embeddings", folder),
            rope_theta=theta,
            rope_scaling=scaling,
            sliding_window=config.get("sliding_window") if config.get("use_sliding_window", True) else None,
            weight_bytes=check_safetensors(folder),
        )

    def check(self, group_size: int, seq_len: int, tp_size: int) -> None:
        """Raises `UserError` when the options do not fit this model."""
        self._check_tensor_parallel(tp_size)
        self._check_group_size(group_size, tp_size)
        if seq_len > self.max_positions:
            raise UserError(
                f"calib_seq_len is {seq_len}, the model's max_position_embeddings {self.max_positions}",
                where="field calib_seq_len",
                fix=f"use at most {self.max_positions}",
            )

    def quantized_inputs(self, tp_size: int) -> dict[str, int]:
        """The input dimension of each quantized layer on one rank: o_proj and down_proj are cut along it."""
        return {
            "hidden_size": self.hidden_size,
            "attention output": self.heads * self.head_size // tp_size,
            "intermediate_size": self.intermediate_size // tp_size,
        }

    def _check_tensor_parallel(self, tp_size: int) -> None:
        counts = {
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads,
            "intermediate_size": self.intermediate_size,
        }
        for name, count in counts.items():
            if count % tp_size:
                raise UserError(
                    f"the model's {name} ({count}) cannot be split over {tp_size} ranks",
                    where="field tp_size",
                    fix=f"use a divisor of {count}, 1 for instance",
                )

    def _check_group_size(self, group_size: int, tp_size: int) -> None:
        inputs = self.quantized_inputs(tp_size)
        wrong = [f"{name} ({size})" for name, size in inputs.items() if size % group_size]
        if not wrong:
            return
        fits = [size for size in GROUP_SIZES if not any(dim % size for dim in inputs.values())]
        ranks = f" on each of {tp_size} ranks" if tp_size > 1 else ""
        raise UserError(
            f"AWQ group size {group_size} does not divide the model's {', '.join(wrong)}{ranks}",
            where="field awq_group_size",
            fix=f"use {fits[0]}" if fits else "this model cannot be quantized in groups of 16 or more",
        )


def check_safetensors(folder: Path) -> int:
    """The bytes of all weight files; raises `UserError` that names one which is missing, cut or damaged."""
    index = folder / "model.safetensors.index.json"
    if not index.exists():
        _tensor_names(folder / "model.safetensors")
        return (folder / "model.safetensors").stat().st_size
    expected: dict[str, set[str]] = {}
    for tensor, file in _read_json(index).get("weight_map", {}).items():
        expected.setdefault(file, set()).add(tensor)
    for file, tensors in expected.items():
        lost = tensors - _tensor_names(folder / file)
        if lost:
            raise _damaged(folder / file, f"it lacks {sorted(lost)[0]}")
    return sum((folder / file).stat().st_size for file in expected)


def _tensor_names(path: Path) -> set[str]:
    """The names in a safetensors header: 8 bytes of length, JSON with offsets, then the data."""
    try:
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            header = json.loads(file.read(min(length, path.stat().st_size)))
        header.pop("__metadata__", None)
        end = max((entry["data_offsets"][1] for entry in header.values()), default=0)
    except FileNotFoundError as error:
        raise UserError(
            f"{path.name} is missing",
            where=f"field model: {path.parent}",
            fix="use a model with safetensors weights, completely downloaded",
        ) from error
    except (OSError, ValueError, struct.error, KeyError, TypeError, AttributeError) as error:
        raise _damaged(path, "its header cannot be read") from error
    size = path.stat().st_size
    if size != 8 + length + end:
        raise _damaged(path, f"it has {size} bytes instead of {8 + length + end}")
    return set(header)


def _damaged(path: Path, why: str) -> UserError:
    return UserError(f"{path.name} is damaged: {why}", where=f"field model: {path}", fix="download it again")


def _read_json(path: Path) -> dict[str, Any]:
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path.name} cannot be read: {error}", where=f"field model: {path}") from error
    if not isinstance(fields, dict):
        raise UserError(f"{path.name} is not a JSON object", where=f"field model: {path}")
    return fields


def _number(config: dict[str, Any], key: str, folder: Path) -> int:
    value = config.get(key)
    if not isinstance(value, int) or value < 1:
        raise UserError(f"config.json has no usable {key}", where=f"field model: {folder / 'config.json'}")
    return value


def _rope(config: dict[str, Any], folder: Path) -> tuple[float, dict[str, Any] | None]:
    """Rotary base and scaling: transformers 5 keeps both in ``rope_parameters``, 4 at the top level."""
    parameters = config.get("rope_parameters")
    if parameters is None:
        theta, scaling = config.get("rope_theta", 10000.0), config.get("rope_scaling")
    else:
        scaling = dict(parameters)
        theta = scaling.pop("rope_theta", config.get("rope_theta", 10000.0))
    kind = _rope_type(scaling)
    if kind == "default":
        return float(theta), None
    if kind not in ROPE_TYPES or scaling is None:
        raise UserError(
            f"rotary scaling {kind} is not supported",
            where=f"field model: {folder / 'config.json'}",
            fix=f"supported: none, {', '.join(ROPE_TYPES)}",
        )
    return float(theta), {"rope_type": kind} | {k: v for k, v in scaling.items() if k not in ("type", "rope_type")}


def _rope_type(scaling: dict[str, Any] | None) -> str:
    """The kind of rotary scaling, ``default`` for none; ``type`` is the older name of ``rope_type``."""
    scaling = scaling or {}
    return str(scaling.get("rope_type", scaling.get("type", "default")))
