"""AWQ's input scales in a form that folds into the layer before, for engines that have no ``pre_quant_scale``.

The scales of q, k and v, and those of gate and up, fold into the norm before them: each set must be one scale. That of
down folds into up's rows, and that of o into v's rows, where the query heads of a key-value head must share it.
ModelOpt's search finds a scale for each layer alone; here those that must be equal become their mean, and the weights
are smoothed again. q, k and v get theirs by ModelOpt's export. Layers that read the residual stream, as in OLMo 2, have
no norm before them, and get no scale.
"""

from __future__ import annotations

from typing import Any

import torch  # noqa: TID253 - runs only in a target's environment

from include.model.architectures import ARCHITECTURES
from include.model.config import ModelConfig


def make_foldable(model: Any, config: ModelConfig) -> None:  # noqa: ANN401
    """Gives a calibrated `transformers` model, in place, scales that fold."""
    from modelopt.torch.export.quant_utils import preprocess_linear_fusion

    tensors = ARCHITECTURES[config.architecture].tensors
    with torch.no_grad():
        for layer in model.get_decoder().layers:
            attention, mlp = layer.self_attn, layer.mlp
            if tensors.before_attention is None:
                _remove_scales(attention.q_proj, attention.k_proj, attention.v_proj)
            if tensors.before_mlp is None:
                _remove_scales(mlp.gate_proj, mlp.up_proj)
            else:
                preprocess_linear_fusion([mlp.gate_proj, mlp.up_proj], resmooth_only=True)
            _share_over_query_heads(attention.o_proj, config)


def _remove_scales(*linears: Any) -> None:  # noqa: ANN401
    """What reads the residual stream has no layer before it that could take a scale."""
    for linear in linears:
        _smooth_with(linear, torch.ones_like(linear.input_quantizer.pre_quant_scale))


def _share_over_query_heads(o_proj: Any, config: ModelConfig) -> None:  # noqa: ANN401
    """Smooths the output projection again with one scale for all query heads of a key-value head."""
    old = o_proj.input_quantizer.pre_quant_scale
    new = old.view(config.kv_heads, -1, config.head_dim).mean(dim=1, keepdim=True)
    _smooth_with(o_proj, new.expand(-1, config.heads // config.kv_heads, -1).reshape(old.shape))


def _smooth_with(linear: Any, new: torch.Tensor) -> None:  # noqa: ANN401
    """Gives a layer another input scale, and its weight the amax that goes with it."""
    from modelopt.torch.quantization.model_calib import enable_stats_collection, finish_stats_collection

    old = linear.input_quantizer.pre_quant_scale
    if torch.equal(old, new):
        return
    weight = linear.weight.float() * (old.float() / new.float())
    linear.weight = torch.nn.Parameter(weight.to(linear.weight.dtype))
    linear.input_quantizer.pre_quant_scale = new
    linear.weight_quantizer.reset_amax()
    enable_stats_collection(linear.weight_quantizer)
    linear.weight_quantizer(linear.weight)
    finish_stats_collection(linear.weight_quantizer)
