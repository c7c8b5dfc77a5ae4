"""AWQ's input scales in a form that folds into the layer before, for engines that have no ``pre_quant_scale``.

The scales of q, k and v, and those of gate and up, fold into the norm before them: each set must be one scale. That of
down folds into up's rows, and that of o into v's rows, where the query heads of a key-value head must share it.
ModelOpt's search finds a scale for each layer alone; here those that must be equal become their mean, and the weights
are smoothed again. q, k and v get theirs by ModelOpt's export.
"""

from __future__ import annotations

from typing import Any

import torch  # noqa: TID253 - runs only in a target's environment

from include.model.config import ModelConfig


def make_foldable(model: Any, config: ModelConfig) -> None:  # noqa: ANN401
    """Gives a calibrated `transformers` model, in place, scales that fold."""
    from modelopt.torch.export.quant_utils import preprocess_linear_fusion

    with torch.no_grad():
        for layer in model.get_decoder().layers:
            preprocess_linear_fusion([layer.mlp.gate_proj, layer.mlp.up_proj], resmooth_only=True)
            _share_over_query_heads(layer.self_attn.o_proj, config)


def _share_over_query_heads(o_proj: Any, config: ModelConfig) -> None:  # noqa: ANN401
    """Smooths the output projection again with one scale for all query heads of a key-value head."""
    from modelopt.torch.quantization.model_calib import enable_stats_collection, finish_stats_collection

    old = o_proj.input_quantizer.pre_quant_scale
    new = old.view(config.kv_heads, -1, config.head_dim).mean(dim=1, keepdim=True)
    new = new.expand(-1, config.heads // config.kv_heads, -1).reshape(old.shape)
    if torch.equal(old, new):
        return
    weight = o_proj.weight.float() * (old.float() / new.float())
    o_proj.weight = torch.nn.Parameter(weight.to(o_proj.weight.dtype))
    o_proj.input_quantizer.pre_quant_scale = new
    o_proj.weight_quantizer.reset_amax()
    enable_stats_collection(o_proj.weight_quantizer)
    o_proj.weight_quantizer(o_proj.weight)
    finish_stats_collection(o_proj.weight_quantizer)
