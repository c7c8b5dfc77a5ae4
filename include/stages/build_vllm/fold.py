"""A checkpoint's input scales, folded into the layers before: vLLM has no ``pre_quant_scale``.

The scale of a norm's output goes into the norm's weight; the scale of the inputs that another quantized layer makes
goes into that layer's group scales and bias, row by row. The ints stay as they are.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

import torch  # noqa: TID253 - runs only in a target's environment

from include.errors import UserError
from include.model.architectures import LLAMA_TENSORS
from include.stages.checkpoint import Checkpoint
from include.stages.formats.base import Linear
from include.stages.formats.int4_awq import QuantizedLinear

Layer = dict[str, QuantizedLinear]

_ATTENTION, _MLP = LLAMA_TENSORS.attention, tuple(LLAMA_TENSORS.column_parallel)
_UP, _DOWN, _VALUE, _OUTPUT = "mlp.up_proj", "mlp.down_proj", "self_attn.v_proj", "self_attn.o_proj"


def folded(checkpoint: Checkpoint) -> Iterator[tuple[Mapping[str, Linear], dict[str, torch.Tensor]]]:
    """Each decoder layer: its quantized layers without input scales, and the factors of its norms, by short names.

    In a format without such scales they are the layers themselves.

    Raises:
        UserError: the scales do not fold.
    """
    config, tensors = checkpoint.config, checkpoint.tensors
    names = iter(checkpoint.linears())
    for index in range(config["num_hidden_layers"]):
        prefix = f"model.layers.{index}."
        found = {name.removeprefix(prefix): linear for name, linear in (next(names) for _ in range(_LAYERS))}
        layer = {name: linear for name, linear in found.items() if isinstance(linear, QuantizedLinear)}
        if not layer:
            yield found, {}
            continue
        norms = {
            norm: _shared(layer, after, norm, prefix)
            for norm, after in ((tensors.before_attention, _ATTENTION), (tensors.before_mlp, _MLP))
        }
        heads = _of_value_heads(layer[_OUTPUT], config["num_key_value_heads"], config["head_size"], prefix)
        layer[_UP] = _rows_times(layer[_UP], layer[_DOWN].pre_quant_scale)
        layer[_VALUE] = _rows_times(layer[_VALUE], heads)
        plain = {name: replace(linear, pre_quant_scale=None) for name, linear in layer.items()}
        yield plain, {name: scale for name, scale in norms.items() if name and scale is not None}


_LAYERS = len((*_ATTENTION, *_MLP, _OUTPUT, _DOWN))


def _shared(layer: Layer, names: tuple[str, ...], norm: str | None, prefix: str) -> torch.Tensor | None:
    """The one input scale of layers that read the same norm; without a norm it must be one that changes nothing."""
    scales = [layer[name].pre_quant_scale for name in names]
    first = scales[0]
    if all(scale is None for scale in scales):
        return None
    if first is None or any(scale is None or not torch.equal(first, scale) for scale in scales):
        raise _not_foldable(f"{prefix}{names[0]} and {names[-1]} have different ones")
    if norm is None and not torch.equal(first, torch.ones_like(first)):
        raise _not_foldable(f"{prefix}{names[0]} reads no norm that could take its")
    return first.float()


def _of_value_heads(output: QuantizedLinear, kv_heads: int, head_dim: int, prefix: str) -> torch.Tensor | None:
    """The factor of each of v's rows, which all query heads that read it must share."""
    if output.pre_quant_scale is None:
        return None
    heads = output.pre_quant_scale.float().view(kv_heads, -1, head_dim)
    if not torch.equal(heads, heads[:, :1].expand_as(heads)):
        raise _not_foldable(f"{prefix}{_OUTPUT}'s differs between query heads of one key-value head")
    return heads[:, 0].reshape(-1)


def _rows_times(linear: QuantizedLinear, factors: torch.Tensor | None) -> QuantizedLinear:
    if factors is None:
        return linear
    rows = factors.float()
    bias = None if linear.bias is None else linear.bias.float() * rows
    return replace(linear, scales=linear.scales.float() * rows[:, None], bias=bias)


def _not_foldable(what: str) -> UserError:
    return UserError(
        f"the checkpoint's input scales do not fold: {what}",
        fix="calibrate with --smoothing foldable, as target vllm does",
    )
