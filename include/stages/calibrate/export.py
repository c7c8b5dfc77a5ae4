"""The quantized model as a TensorRT-LLM checkpoint, and the checks of what was written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch  # noqa: TID253 - runs only in a target's environment

from include.errors import ToolError
from include.stages.calibrate.source import SourceModel
from include.stages.checkpoint import Checkpoint

# ModelOpt writes nothing but these; anything else becomes float16.
CHECKPOINT_DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float16}
# All supported architectures have Llama's modules. "qwen" would need tensorrt_llm to be installed.
_DECODER_TYPE = "llama"


def export(model: Any, source: SourceModel, dtype: str, tp_size: int, out: Path) -> None:  # noqa: ANN401
    """Writes ``config.json`` and ``rank*.safetensors`` into ``out``, readable by every user.

    Raises:
        ToolError: what ModelOpt wrote is not what the source model says.
    """
    from modelopt.torch.export import export_tensorrt_llm_checkpoint

    with torch.no_grad():
        export_tensorrt_llm_checkpoint(
            model,
            _DECODER_TYPE,
            CHECKPOINT_DTYPES[dtype],
            export_dir=str(out),
            inference_tensor_parallel=tp_size,
        )
    _complete_config(out / "config.json", model)
    for path in out.glob("rank*.safetensors"):
        path.chmod(0o644)
    verify(source, out)


def _complete_config(path: Path, model: Any) -> None:  # noqa: ANN401
    """Adds what TensorRT-LLM's own config classes know and ModelOpt writes only where that is installed."""
    config = json.loads(path.read_text())
    attention, mlp = model.get_decoder().layers[0].self_attn, model.get_decoder().layers[0].mlp
    config.setdefault("attn_bias", attention.q_proj.bias is not None)
    config.setdefault("mlp_bias", mlp.up_proj.bias is not None)
    if model.config.model_type == "qwen2":
        config.setdefault("qwen_type", "qwen2")
    path.write_text(json.dumps(config, indent=4))


def verify(source: SourceModel, folder: Path) -> None:
    """Raises `ToolError` when rotary settings differ from ``source`` or a tensor is not finite."""
    checkpoint = Checkpoint(folder)
    _verify_rotary(source, checkpoint.config, folder / "config.json")
    for name, tensor in checkpoint.floating():
        if not torch.isfinite(tensor).all():
            raise ToolError(
                f"{name} has values that are not finite",
                where=str(folder),
                fix="use dtype bfloat16 if the model was trained in it",
            )


def _verify_rotary(source: SourceModel, config: dict[str, Any], path: Path) -> None:
    if config.get("rotary_base") != source.rope_theta:
        raise ToolError(
            f"the checkpoint's rotary_base is {config.get('rotary_base')}, the model's is {source.rope_theta}",
            where=str(path),
            fix="use transformers 4.57 and ModelOpt 0.37",
        )
    written, expected = config.get("rotary_scaling") or {}, source.rope_scaling or {}
    if bool(written) != bool(expected) or any(written.get(key) != value for key, value in expected.items()):
        raise ToolError(f"the checkpoint's rotary_scaling is {written}, the model's is {expected}", where=str(path))
