"""The interface of a format: all that it must give, and a layer's tensors on the way into and out of a checkpoint."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, TypeAlias

from include.errors import ToolError

if TYPE_CHECKING:
    import torch

Merge: TypeAlias = "Callable[[list[torch.Tensor]], torch.Tensor]"
"""Makes one tensor of those of all ranks."""


@dataclass(frozen=True)
class Stored:
    """One quantized layer in a TensorRT-LLM checkpoint.

    Attributes:
        parts: the tensors of a short name, one of each rank; UserError if there are none.
        has: true if there are tensors of that name.
        merge: for what belongs to the weights' outputs and inputs.
        merge_inputs: for what belongs to the inputs alone.
        bias: merged already, or None.
    """

    parts: Callable[[str], list[torch.Tensor]]
    has: Callable[[str], bool]
    merge: Merge
    merge_inputs: Merge
    bias: torch.Tensor | None


class Linear(Protocol):
    """One quantized layer in PyTorch. ``pre_quant_scale`` multiplies its input, if the format has such a scale."""

    @property
    def bias(self) -> torch.Tensor | None:
        """[out] or None."""

    @property
    def pre_quant_scale(self) -> torch.Tensor | None:
        """[in] or None."""

    def dequantized(self) -> torch.Tensor:
        """The float32 weight [out, in], for the unscaled input."""

    def compressed(self, dtype: torch.dtype) -> Iterator[tuple[str, torch.Tensor]]:
        """The layer's tensors in the layout of compressed-tensors, under their short names."""


class Format(ABC):
    """A format of quantized weights. Its facts are known without torch; its methods run in a target's environment.

    Attributes:
        name: the value of the field *quantization*.
        title: its name on pages and in messages.
        algorithm: TensorRT-LLM's name, the ``quant_algo`` of checkpoints and engines.
        targets: those that serve it.
        min_sm: the least compute capability of a GPU that computes with it, as one number.
        fields: the fields of the form, and the options of the calibrate program, that only this format uses.
        passes: ModelOpt's passes through the network, with the forwards of each layer.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    algorithm: ClassVar[str]
    targets: ClassVar[tuple[str, ...]]
    min_sm: ClassVar[int] = 0
    fields: ClassVar[frozenset[str]] = frozenset()
    passes: ClassVar[tuple[tuple[str, int], ...]] = (("activations", 1),)

    @property
    def searches(self) -> bool:
        """True if calibration tries quantized values, for which ModelOpt has a CUDA extension; else it only looks."""
        return len(self.passes) > 1

    def group(self, asked: int) -> int | None:
        """The number of weights that share a scale, if so many are asked for; None for a format without groups."""
        return asked if "awq_group_size" in self.fields else None

    @abstractmethod
    def describe(self, group: int) -> str:
        """The format in a few words; ``group`` counts where weights share scales in groups."""

    @abstractmethod
    def short(self, group: int) -> str:
        """The format in the title of a run."""

    @abstractmethod
    def linear_bytes(self, weights: int, group: int, scale: int) -> int:
        """The bytes that so many quantized weights take, with scales of ``scale`` bytes each."""

    @abstractmethod
    def modelopt_config(self, group: int) -> dict[str, Any]:
        """The configuration for ``modelopt.torch.quantization.quantize``."""

    @abstractmethod
    def linear(self, stored: Stored) -> Linear:
        """A layer of a checkpoint."""

    def input_step(self, stored: Stored) -> Callable[[torch.Tensor], torch.Tensor] | None:
        """The function that engines apply to a layer's input before they multiply; None for none."""
        return None

    @abstractmethod
    def quantization_config(self, group: int) -> dict[str, Any]:
        """The part of a ``config.json`` that tells vLLM and transformers the layout of `Linear.compressed`."""


def modelopt_config(name: str) -> dict[str, Any]:
    """A copy of ModelOpt's configuration of that name.

    Raises:
        ToolError: this ModelOpt keeps its configurations as lists (0.44 and later), not as the dicts of 0.37.
    """
    import modelopt
    import modelopt.torch.quantization as mtq

    config: dict[str, Any] = copy.deepcopy(getattr(mtq, name))
    if not isinstance(config["quant_cfg"], dict):
        raise ToolError(f"ModelOpt {modelopt.__version__} is not supported", fix="use nvidia-modelopt 0.37")
    return config


def compressed_tensors(layout: str, weights: dict[str, Any], inputs: dict[str, Any] | None) -> dict[str, Any]:
    """The ``quantization_config`` of compressed-tensors for a model whose linear layers are all of one layout."""
    group_0 = {"targets": ["Linear"], "weights": weights, "input_activations": inputs, "output_activations": None}
    return {
        "quant_method": "compressed-tensors",
        "format": layout,
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
