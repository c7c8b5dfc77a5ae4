"""INT4 AWQ: its configuration for ModelOpt, its layers in a TensorRT-LLM checkpoint, and its layout for vLLM.

The layout ``pack-quantized`` of compressed-tensors, which vLLM and transformers read, has for a layer
``weight_packed`` int32 [out, in / 8], eight values each plus 8, the first in the lowest bits; ``weight_scale``
[out, in / group]; and ``weight_shape``.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from include.errors import ToolError

if TYPE_CHECKING:
    import torch

ALGORITHM = "W4A16_AWQ"
"""The ``quant_algo`` of the checkpoints and engines here."""

_OFFSET, _BITS = 8, 4


def awq_config(group_size: int) -> dict[str, Any]:
    """ModelOpt's INT4_AWQ_CFG with ``group_size`` weights to a scale.

    Raises:
        ToolError: this ModelOpt keeps its configuration as a list (0.44 and later), not as the dict of 0.37.
    """
    import modelopt
    import modelopt.torch.quantization as mtq

    config: dict[str, Any] = copy.deepcopy(mtq.INT4_AWQ_CFG)
    if not isinstance(config["quant_cfg"], dict):
        raise ToolError(f"ModelOpt {modelopt.__version__} is not supported", fix="use nvidia-modelopt 0.37")
    config["quant_cfg"]["*weight_quantizer"]["block_sizes"][-1] = group_size
    return config


@dataclass(frozen=True)
class QuantizedLinear:
    """One linear layer in int4.

    Attributes:
        ints: int8 [out, in], values -8 .. 7.
        scales: float32 [out, in / group size].
        pre_quant_scale: [in], multiplies the layer's input, or None.
        bias: [out] or None.
    """

    ints: torch.Tensor
    scales: torch.Tensor
    pre_quant_scale: torch.Tensor | None
    bias: torch.Tensor | None

    @property
    def group_size(self) -> int:
        """The number of neighbouring inputs that share a scale."""
        return int(self.ints.shape[1] // self.scales.shape[1])

    def dequantized(self) -> torch.Tensor:
        """The float32 weight [out, in] for the unscaled input: the input's scale is folded in."""
        weight = self.ints.float().unflatten(1, (-1, self.group_size)) * self.scales.float().unsqueeze(-1)
        scale = 1.0 if self.pre_quant_scale is None else self.pre_quant_scale.float()
        return weight.flatten(1) * scale


def unpack_int4(packed: torch.Tensor) -> torch.Tensor:
    """Int8 [out / 2, in] with two values a byte -> int8 [out, in] with values -8 .. 7."""
    import torch

    low = ((packed & 0x0F) ^ 8) - 8
    high = packed.view(torch.int8) >> 4
    return torch.stack([low.to(torch.int8), high], dim=1).flatten(0, 1)


def packed(linear: QuantizedLinear, dtype: torch.dtype) -> Iterator[tuple[str, torch.Tensor]]:
    """The tensors of one layer under their short names."""
    import torch

    yield "weight_packed", pack(linear.ints)
    yield "weight_scale", as_type(linear.scales, dtype, "weight_scale")
    yield "weight_shape", torch.tensor(linear.ints.shape, dtype=torch.int64)
    if linear.bias is not None:
        yield "bias", as_type(linear.bias, dtype, "bias")


def pack(ints: torch.Tensor) -> torch.Tensor:
    """Int8 [out, in] with values -8 .. 7 -> int32 [out, in / 8]."""
    import torch

    nibbles = (ints.to(torch.int32) + _OFFSET).unflatten(1, (-1, 32 // _BITS))
    shifts = torch.arange(0, 32, _BITS, dtype=torch.int32, device=ints.device)
    # No bit is set twice, so the sum is the bitwise or; int32 wraps where the last nibble has its highest bit.
    return (nibbles << shifts).sum(dim=-1, dtype=torch.int32).contiguous()


def quantization_config(group: int) -> dict[str, Any]:
    """The part of it that names the layout: int4, symmetric, a scale for each ``group`` of inputs."""
    weights = {
        "num_bits": _BITS, "type": "int", "symmetric": True, "strategy": "group", "group_size": group,
        "dynamic": False, "observer": "minmax", "actorder": None,
    }  # fmt: skip
    group_0 = {"targets": ["Linear"], "weights": weights, "input_activations": None, "output_activations": None}
    return {
        "quant_method": "compressed-tensors",
        "format": "pack-quantized",
        "quantization_status": "compressed",
        "config_groups": {"group_0": group_0},
        "ignore": ["lm_head"],
        "kv_cache_scheme": None,
    }


def as_type(tensor: torch.Tensor, dtype: torch.dtype, name: str) -> torch.Tensor:
    """The tensor in the engine's type; raises `ToolError` if a value of it is too large, or a scale vanishes."""
    import torch

    cast = tensor.to(dtype)
    if not torch.isfinite(cast).all() or (name.endswith("scale") and bool((cast == 0).logical_and(tensor != 0).any())):
        raise ToolError(
            f"{name} has values that {str(dtype).removeprefix('torch.')} does not hold", fix="use dtype bfloat16"
        )
    return cast.contiguous()
