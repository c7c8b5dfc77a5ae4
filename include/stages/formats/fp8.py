"""FP8: weights and inputs of a layer in E4M3, with one scale for all weights and one for all inputs, both fixed.

ModelOpt's export gives q, k and v of a layer one pair of scales, and gate and up another: the largest of each. vLLM and
TensorRT-LLM merge these layers, take the largest scale, and quantize anew what had a smaller one; here nothing has.
The layout ``float-quantized`` of compressed-tensors has ``weight`` [out, in], ``weight_scale`` [1] and ``input_scale``
[1] for a layer; a value is the stored one times its scale.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

from include.stages.formats.base import Format, Stored, as_type, compressed_tensors, modelopt_config

if TYPE_CHECKING:
    import torch

_LARGEST = 448.0
"""The largest value of E4M3."""


@dataclass(frozen=True)
class Fp8Linear:
    """One linear layer in FP8.

    Attributes:
        weight: float8_e4m3fn [out, in].
        weight_scale: float32 [1].
        input_scale: float32 [1].
        bias: [out] or None.
    """

    weight: torch.Tensor
    weight_scale: torch.Tensor
    input_scale: torch.Tensor
    bias: torch.Tensor | None
    pre_quant_scale: ClassVar[None] = None

    def dequantized(self) -> torch.Tensor:
        """The float32 weight [out, in]."""
        return self.weight.float() * self.weight_scale

    def compressed(self, dtype: torch.dtype) -> Iterator[tuple[str, torch.Tensor]]:
        """The tensors of ``float-quantized``: the checkpoint's own."""
        yield "weight", self.weight.contiguous()
        # Copies, for safetensors writes no tensor that others share: q, k and v have the same ones.
        yield "weight_scale", self.weight_scale.clone()
        yield "input_scale", self.input_scale.clone()
        if self.bias is not None:
            yield "bias", as_type(self.bias, dtype, "bias")


class Fp8(Format):
    """ModelOpt's FP8_DEFAULT_CFG: the largest values in sight make the scales. The KV cache stays as it is."""

    name: ClassVar[str] = "fp8"
    title: ClassVar[str] = "FP8"
    algorithm: ClassVar[str] = "FP8"
    targets: ClassVar[tuple[str, ...]] = ("tensorrt_llm", "vllm")
    min_sm: ClassVar[int] = 89

    def describe(self, group: int) -> str:
        """The format; there are no groups."""
        return "fp8 weights and activations, a scale for each tensor"

    def short(self, group: int) -> str:
        """The name alone."""
        return self.name

    def linear_bytes(self, weights: int, group: int, scale: int) -> int:
        """One byte for each weight; two scales for a whole layer are nothing beside them."""
        return weights

    def modelopt_config(self, group: int) -> dict[str, Any]:
        """ModelOpt's FP8_DEFAULT_CFG."""
        return modelopt_config("FP8_DEFAULT_CFG")

    def linear(self, stored: Stored) -> Fp8Linear:
        """The weights of all ranks; their scales are the same on each."""
        return Fp8Linear(
            weight=stored.merge(stored.parts("weight")),
            weight_scale=stored.parts("weights_scaling_factor")[0],
            input_scale=stored.parts("activation_scaling_factor")[0],
            bias=stored.bias,
        )

    def input_step(self, stored: Stored) -> Callable[[torch.Tensor], torch.Tensor]:
        """Engines quantize a layer's input by its fixed scale."""
        return partial(rounded, scale=stored.parts("activation_scaling_factor")[0])

    def quantization_config(self, group: int) -> dict[str, Any]:
        """Weights and inputs in E4M3, symmetric, with one fixed scale each."""
        values = {
            "num_bits": 8, "type": "float", "symmetric": True, "strategy": "tensor", "group_size": None,
            "dynamic": False, "observer": "minmax", "actorder": None,
        }  # fmt: skip
        return compressed_tensors("float-quantized", values, values)


def rounded(values: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """The values that E4M3 with this scale has in their place; those beyond its range become its ends."""
    import torch

    step = scale.to(values.device)
    stored = (values.float() / step).clamp(-_LARGEST, _LARGEST).to(torch.float8_e4m3fn)
    return (stored.float() * step).to(values.dtype)
