"""INT4 AWQ: weights of 4 bits in groups that share a scale, and a scale for each input, found by a search.

The layout ``pack-quantized`` of compressed-tensors, which vLLM and transformers read, has for a layer
``weight_packed`` int32 [out, in / 8], eight values each plus 8, the first in the lowest bits; ``weight_scale``
[out, in / group]; and ``weight_shape``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from include.stages.formats.base import Format, Stored, as_type, compressed_tensors, modelopt_config

if TYPE_CHECKING:
    import torch

_OFFSET, _BITS = 8, 4


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

    def compressed(self, dtype: torch.dtype) -> Iterator[tuple[str, torch.Tensor]]:
        """The tensors of ``pack-quantized``; the input's scale must have been folded into the layer before."""
        import torch

        yield "weight_packed", pack(self.ints)
        yield "weight_scale", as_type(self.scales, dtype, "weight_scale")
        yield "weight_shape", torch.tensor(self.ints.shape, dtype=torch.int64)
        if self.bias is not None:
            yield "bias", as_type(self.bias, dtype, "bias")


class Int4Awq(Format):
    """ModelOpt's ``awq_lite`` with TensorRT-LLM's W4A16_AWQ."""

    name: ClassVar[str] = "int4_awq"
    title: ClassVar[str] = "INT4 AWQ"
    algorithm: ClassVar[str] = "W4A16_AWQ"
    targets: ClassVar[tuple[str, ...]] = ("openvino", "tensorrt_llm", "vllm")
    fields: ClassVar[frozenset[str]] = frozenset({"awq_group_size", "smoothing"})
    # One as it is; and 11 tries of alpha with one that checks the best.
    passes: ClassVar[tuple[tuple[str, int], ...]] = (("activations", 1), ("alpha search", 12))

    def describe(self, group: int) -> str:
        """The format with its groups."""
        return f"int4 in groups of {group}"

    def short(self, group: int) -> str:
        """With its groups."""
        return f"int4 g{group}"

    def linear_bytes(self, weights: int, group: int, scale: int) -> int:
        """Half a byte for each weight, and a scale for each group."""
        return weights // 2 + weights // group * scale

    def modelopt_config(self, group: int) -> dict[str, Any]:
        """ModelOpt's INT4_AWQ_CFG with ``group`` weights to a scale."""
        config = modelopt_config("INT4_AWQ_CFG")
        config["quant_cfg"]["*weight_quantizer"]["block_sizes"][-1] = group
        return config

    def linear(self, stored: Stored) -> QuantizedLinear:
        """The ints of all ranks, with their scales."""
        scale = "prequant_scaling_factor"
        return QuantizedLinear(
            ints=stored.merge([unpack_int4(packed) for packed in stored.parts("weight")]),
            scales=stored.merge(stored.parts("weights_scaling_factor")),
            pre_quant_scale=stored.merge_inputs(stored.parts(scale)) if stored.has(scale) else None,
            bias=stored.bias,
        )

    def quantization_config(self, group: int) -> dict[str, Any]:
        """Int4, symmetric, a scale for each ``group`` of inputs."""
        weights = {
            "num_bits": _BITS, "type": "int", "symmetric": True, "strategy": "group", "group_size": group,
            "dynamic": False, "observer": "minmax", "actorder": None,
        }  # fmt: skip
        return compressed_tensors("pack-quantized", weights, None)


def unpack_int4(packed: torch.Tensor) -> torch.Tensor:
    """Int8 [out / 2, in] with two values a byte -> int8 [out, in] with values -8 .. 7."""
    import torch

    low = ((packed & 0x0F) ^ 8) - 8
    high = packed.view(torch.int8) >> 4
    return torch.stack([low.to(torch.int8), high], dim=1).flatten(0, 1)


def pack(ints: torch.Tensor) -> torch.Tensor:
    """Int8 [out, in] with values -8 .. 7 -> int32 [out, in / 8]."""
    import torch

    nibbles = (ints.to(torch.int32) + _OFFSET).unflatten(1, (-1, 32 // _BITS))
    shifts = torch.arange(0, 32, _BITS, dtype=torch.int32, device=ints.device)
    # No bit is set twice, so the sum is the bitwise or; int32 wraps where the last nibble has its highest bit.
    return (nibbles << shifts).sum(dim=-1, dtype=torch.int32).contiguous()
