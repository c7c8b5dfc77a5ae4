"""The quantized model as a TensorRT-LLM checkpoint, and the checks of its files."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch  # noqa: TID253 - runs only in a target's environment
from torch.overrides import TorchFunctionMode  # noqa: TID253

from include.errors import ToolError
from include.model.architectures import ARCHITECTURES, Architecture
from include.model.config import ModelConfig
from include.model.files import CONFIG_FILE
from include.stages.calibrate import rank_file
from include.stages.calibrate.source import SourceModel
from include.stages.checkpoint import SOURCE_CONFIG_FILE
from include.stages.common import log

# ModelOpt writes nothing but these; anything else becomes float16.
CHECKPOINT_DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float16}

_NOT_OF_THE_CHECKPOINT = ("dtype", "torch_dtype", "transformers_version", "_name_or_path", "auto_map")


class StayOnDevice(TorchFunctionMode):  # type: ignore[misc]
    """Within it ``tensor.cpu()`` gives the tensor itself.

    ModelOpt moves each packed weight to new host memory; making that memory took longer than packing. With this
    they stay where they are until `rank_file` writes them.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,  # noqa: ANN401
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401
        """PyTorch's hook: https://docs.pytorch.org/docs/stable/torch.overrides.html."""
        return args[0] if func is torch.Tensor.cpu else func(*args, **(kwargs or {}))


def export(model: Any, source: SourceModel, dtype: str, tp_size: int, out: Path) -> None:  # noqa: ANN401
    """Writes ``config.json`` and ``rank*.safetensors`` into ``out``, readable by every user.

    Raises:
        ToolError: ModelOpt's checkpoint differs from ``source``, or is not finite.
    """
    write = partial(_write, model, source, CHECKPOINT_DTYPES[dtype], tp_size, out)
    if not _fits(write):
        log.info("out of memory: again, with the packed weights in host memory")
        torch.cuda.empty_cache()
        write()


def _fits(write: Callable[[], None]) -> bool:
    """Exports from the device of the weights, unless they and the packed ones are too much for a GPU."""
    try:
        with StayOnDevice():
            write()
    except torch.OutOfMemoryError:
        return False
    return True


def _write(model: Any, source: SourceModel, dtype: torch.dtype, tp_size: int, out: Path) -> None:  # noqa: ANN401
    from modelopt.torch.export import torch_to_tensorrt_llm_checkpoint

    row = ARCHITECTURES[source.config.architecture]
    with torch.no_grad(), _unpadded(), _two_norms(model, row) as norms:
        ranks = torch_to_tensorrt_llm_checkpoint(model, row.decoder_type, dtype, inference_tensor_parallel=tp_size)
        for config, weights, _ in ranks:
            verify_rotary(source.config, config)
            _add_norms(weights, norms, row, dtype)
            verify_finite(weights)
            path = out / f"rank{config['rank']}.safetensors"
            rank_file.save(weights, path)
            path.chmod(0o644)
    hf_fields = _hf_fields(model)
    _complete(config, model, row, hf_fields)
    for name, fields in {CONFIG_FILE: config, SOURCE_CONFIG_FILE: hf_fields}.items():
        path = out / name
        path.write_text(json.dumps(fields, indent=4))
        path.chmod(0o644)


def _hf_fields(model: Any) -> dict[str, Any]:  # noqa: ANN401
    """The model's own configuration, whole: what defaults leave out may differ in another version."""
    fields: dict[str, Any] = json.loads(model.config.to_json_string(use_diff=False))
    # vLLM asks a Gemma for both names.
    fields.setdefault("hidden_act", fields.get("hidden_activation"))
    return {name: value for name, value in fields.items() if name not in _NOT_OF_THE_CHECKPOINT}


@contextmanager
def _two_norms(model: Any, row: Architecture) -> Iterator[list[dict[str, Any]]]:  # noqa: ANN401
    """Gives the norms of each layer by name, and shows ModelOpt the first two: it refuses more."""
    layers = model.get_decoder().layers
    norms = [{name: layer.get_submodule(name) for name in row.tensors.norms} for layer in layers]
    others = [name for name in row.tensors.norms if "." not in name][2:]
    for layer in layers:
        for name in others:
            delattr(layer, name)
    try:
        yield norms
    finally:
        for layer, of_layer in zip(layers, norms, strict=True):
            for name in others:
                setattr(layer, name, of_layer[name])


def _add_norms(
    weights: dict[str, torch.Tensor], norms: list[dict[str, Any]], row: Architecture, dtype: torch.dtype
) -> None:
    """Adds those that ModelOpt leaves out: of queries and keys, and of Gemma's MLP."""
    for index, of_layer in enumerate(norms):
        for name, norm in of_layer.items():
            weight = (norm.weight.detach().float() + row.norm_offset).to(dtype)
            weights.setdefault(f"transformer.layers.{index}.{row.tensors.norms[name]}.weight", weight)


@contextmanager
def _unpadded() -> Iterator[None]:
    """Within it ModelOpt leaves the vocabulary as it is.

    For an output layer in int4, which ours is not, it would pad it to a multiple of 64, and TensorRT-LLM would take
    the padding for tokens.
    """
    from modelopt.torch.export import model_config_export as exporter

    pad, exporter.pad_embedding_lm_head = exporter.pad_embedding_lm_head, lambda config: None
    try:
        yield
    finally:
        exporter.pad_embedding_lm_head = pad


def _complete(config: dict[str, Any], model: Any, row: Architecture, hf_fields: Mapping[str, Any]) -> None:  # noqa: ANN401
    """Adds the fields of TensorRT-LLM's own config classes, which ModelOpt writes only if that is installed."""
    attention, mlp = model.get_decoder().layers[0].self_attn, model.get_decoder().layers[0].mlp
    config["quantization"].setdefault("exclude_modules", [])
    # Where tensorrt_llm is installed, its class has filled in a mlp_bias of its own, which is False.
    config["attn_bias"] = attention.q_proj.bias is not None
    config["mlp_bias"] = mlp.up_proj.bias is not None
    config.update(row.checkpoint_fields({**hf_fields, "head_dim": config["head_size"]}))


def verify_finite(weights: Mapping[str, torch.Tensor]) -> None:
    """Raises `ToolError` when a tensor has values that are not finite."""
    for name, tensor in weights.items():
        # PyTorch has no isfinite for types of one byte.
        values = tensor.float() if tensor.dtype == torch.float8_e4m3fn else tensor
        if tensor.is_floating_point() and not torch.isfinite(values).all():
            raise ToolError(
                f"{name} has values that are not finite", fix="use dtype bfloat16 if the model was trained in it"
            )


def verify_rotary(source: ModelConfig, config: Mapping[str, Any]) -> None:
    """Raises `ToolError` when the rotary settings of a checkpoint's ``config`` are not those of ``source``."""
    if config.get("rotary_base") != source.rope_theta:
        raise ToolError(
            f"the checkpoint's rotary_base is {config.get('rotary_base')}, the model's is {source.rope_theta}",
            where="config.json of the checkpoint",
            fix="use transformers 4.57 and ModelOpt 0.37",
        )
    written, expected = config.get("rotary_scaling") or {}, source.rope_scaling or {}
    if bool(written) != bool(expected) or any(written.get(key) != value for key, value in expected.items()):
        raise ToolError(
            f"the checkpoint's rotary_scaling is {written}, the model's is {expected}",
            where="config.json of the checkpoint",
        )
