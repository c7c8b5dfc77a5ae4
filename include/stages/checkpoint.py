"""Reads a quantized TensorRT-LLM checkpoint (``config.json`` and ``rank*.safetensors``) back into PyTorch.

The layout is ModelOpt's (``modelopt/torch/export``, 0.37): q, k and v merged per rank; ``fc`` is the gate projection,
``gate`` the up projection. In W4A16_AWQ there are two int4 a byte along the output dimension, even rows in the low
nibble, and a layer computes ``(x * pre_quant_scale) @ (ints * scales).T + bias``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from operator import itemgetter
from pathlib import Path
from typing import Any, TypeAlias

import torch  # noqa: TID253 - runs only in a target's environment

from include.errors import UserError
from include.model.architectures import find_architecture
from include.model.files import CONFIG_FILE
from include.stages.common import read_json
from include.stages.formats import of_algorithm
from include.stages.formats.base import Format, Linear, Merge, Stored

SOURCE_CONFIG_FILE = "source_config.json"
"""The source model's own configuration: TensorRT-LLM's has no place for some of its fields."""

# Fields that a checkpoint's config.json has under the Hugging Face name.
_SAME_IN_BOTH = (
    "hidden_size", "intermediate_size", "max_position_embeddings", "num_attention_heads",
    "num_hidden_layers", "num_key_value_heads", "vocab_size",
)  # fmt: skip

_rows: Merge = partial(torch.cat, dim=0)
_columns: Merge = partial(torch.cat, dim=1)
_first: Merge = itemgetter(0)
Device: TypeAlias = "torch.device | str | int"
# Where modules are, as transformers' ``hf_device_map`` says it: by name, or by a name that many begin with.
DeviceMap = Mapping[str, Device]
ON_CPU: DeviceMap = {"": "cpu"}


class Checkpoint:
    """A TensorRT-LLM checkpoint directory, its tensor-parallel ranks merged, its names those of Hugging Face.

    Raises:
        UserError: the directory is not a checkpoint of a supported format and architecture, or is incomplete.
    """

    def __init__(self, folder: Path) -> None:
        from safetensors import SafetensorError, safe_open

        self.folder = folder
        self.config, self.format = _read_config(folder)
        names = [str(self.config.get("architecture"))]
        self.architecture = find_architecture(names, "the checkpoint", str(folder / CONFIG_FILE))
        self.tensors = self.architecture.tensors
        self.tp_size = int(self.config["mapping"]["tp_size"])
        try:
            paths = [folder / f"rank{rank}.safetensors" for rank in range(self.tp_size)]
            self._ranks = [safe_open(path, framework="pt") for path in paths]
        except (OSError, SafetensorError) as error:
            raise UserError(f"a weight file cannot be read: {error}", where=str(folder)) from error
        self._names = set(self._ranks[0].keys())

    @property
    def group_size(self) -> int:
        """The number of weights that share a scale; 0 in a format without groups."""
        return int(self.config["quantization"].get("group_size") or 0)

    def linears(self, device_map: DeviceMap = ON_CPU) -> Iterator[tuple[str, Linear]]:
        """Every quantized layer under its Hugging Face module name, layer after layer, each on its device."""
        for name, stored in self._stored(device_map):
            yield name, self.format.linear(stored)

    def _stored(self, device_map: DeviceMap) -> Iterator[tuple[str, Stored]]:
        for index in range(self.config["num_hidden_layers"]):
            for name, hf_name, merge in self._layout():
                target = f"model.layers.{index}.{hf_name}"
                device = _device_of(target, device_map)
                yield target, self._layer(f"transformer.layers.{index}.{name}", merge, device)

    def plain(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Every tensor that is not quantized under its Hugging Face name: embeddings, norms, output head."""
        vocab = self.config["vocab_size"]
        hf_name, name = self.tensors.embedding
        embedding = self._merged(f"{name}.weight", _rows)[:vocab]
        yield f"{hf_name}.weight", embedding
        shared = self.config["share_embedding_table"]
        yield "lm_head.weight", embedding if shared else self._merged("lm_head.weight", _rows)[:vocab]
        hf_name, name = self.tensors.final_norm
        yield f"{hf_name}.weight", self._norm(name)
        for index in range(self.config["num_hidden_layers"]):
            for hf_name, name in self.tensors.norms.items():
                yield f"model.layers.{index}.{hf_name}.weight", self._norm(f"transformer.layers.{index}.{name}")

    def _norm(self, name: str) -> torch.Tensor:
        """The weight of a norm as Hugging Face counts it."""
        weight, offset = self._merged(f"{name}.weight", _first), self.architecture.norm_offset
        return weight.float() - offset if offset else weight

    def hf_config(self) -> Any:  # noqa: ANN401 - transformers.PretrainedConfig
        """The Hugging Face config, by this checkpoint's files alone."""
        import transformers

        config = getattr(transformers, self.config["architecture"]).config_class(**self.hf_fields())
        if self.architecture.caps_scores:
            config._attn_implementation = "eager"
        return config

    def hf_fields(self) -> dict[str, Any]:
        """The fields of the Hugging Face config, as transformers 4 names them; config.json goes before the source's."""
        config = self.config
        path = self.folder / SOURCE_CONFIG_FILE
        # Earlier versions did not write it: their models had no windows, and this one name of another field.
        source = read_json(path) if path.exists() else {"hidden_act": config["hidden_act"], "sliding_window": None}
        return {
            **source,
            "architectures": [config["architecture"]],
            "attention_bias": f"transformer.layers.0.{self.tensors.qkv}.bias" in self._names,
            "head_dim": config["head_size"],
            "mlp_bias": f"transformer.layers.0.{self.tensors.column_parallel['mlp.gate_proj']}.bias" in self._names,
            "rms_norm_eps": config["norm_epsilon"],
            "rope_scaling": config.get("rotary_scaling"),
            "rope_theta": config["rotary_base"],
            "tie_word_embeddings": False,
            **{name: config[name] for name in _SAME_IN_BOTH},
        }

    def model(self, dtype: torch.dtype, device_map: DeviceMap = ON_CPU) -> Any:  # noqa: ANN401
        """The dequantized `transformers` model with weights of type ``dtype``, ready to run."""
        import transformers
        from accelerate import dispatch_model, init_empty_weights

        # `from_pretrained` would move all weights through host memory when there are several devices.
        with init_empty_weights(include_buffers=False):
            model = getattr(transformers, self.config["architecture"])(self.hf_config())
        model.load_state_dict(self.state(dtype, device_map), assign=True)
        for name, stored in self._stored(device_map):
            if step := self.format.input_step(stored):
                model.get_submodule(name).register_forward_pre_hook(partial(_on_input, step))
        return dispatch_model(model.eval(), dict(device_map))

    def state(self, dtype: torch.dtype, device_map: DeviceMap = ON_CPU) -> dict[str, torch.Tensor]:
        """All tensors under their Hugging Face names, dequantized on the device where each belongs."""
        state = {name: tensor.to(_device_of(name, device_map), dtype) for name, tensor in self.plain()}
        for name, linear in self.linears(device_map):
            state[f"{name}.weight"] = linear.dequantized().to(dtype)
            if linear.bias is not None:
                state[f"{name}.bias"] = linear.bias.to(dtype)
        return state

    def _layout(self) -> Iterator[tuple[str, str, Merge]]:
        """Each quantized layer of a decoder layer: its name here, its Hugging Face name, and the merge of its ranks."""
        for hf_name, name in self.tensors.column_parallel.items():
            yield name, hf_name, _rows
        for hf_name, name in self.tensors.row_parallel.items():
            yield name, hf_name, _columns
        for position, hf_name in enumerate(self.tensors.attention):
            yield self.tensors.qkv, hf_name, self._part_of_qkv(position)

    def _layer(self, name: str, merge: Merge, device: Device) -> Stored:
        bias = f"{name}.bias"
        merge_inputs, merge_bias = (_rows, _first) if merge is _columns else (_first, merge)
        return Stored(
            parts=lambda part: self._parts(f"{name}.{part}", device),
            has=lambda part: f"{name}.{part}" in self._names,
            merge=merge,
            merge_inputs=merge_inputs,
            bias=self._merged(bias, merge_bias, device) if bias in self._names else None,
        )

    def _part_of_qkv(self, position: int) -> Merge:
        """Each rank holds its own q, k and v rows, one after the other."""
        config = self.config
        heads = (config["num_attention_heads"], config["num_key_value_heads"], config["num_key_value_heads"])
        sizes = [count * config["head_size"] // self.tp_size for count in heads]
        return lambda parts: torch.cat([part.split(sizes)[position] for part in parts])

    def _merged(self, name: str, merge: Merge, device: Device = "cpu") -> torch.Tensor:
        return merge(self._parts(name, device))

    def _parts(self, name: str, device: Device) -> list[torch.Tensor]:
        if name not in self._names:
            raise UserError(f"the checkpoint has no tensor {name}", where=str(self.folder))
        return [rank.get_tensor(name).to(device) for rank in self._ranks]


def _on_input(
    step: Callable[[torch.Tensor], torch.Tensor], _: torch.nn.Module, args: tuple[torch.Tensor, ...]
) -> tuple[torch.Tensor, ...]:
    return step(args[0]), *args[1:]


def _device_of(name: str, device_map: DeviceMap) -> Device:
    """The device of a module or weight: by the longest entry of the map that ``name`` begins with."""
    while name and name not in device_map:
        name = name.rpartition(".")[0]
    return device_map[name]


def _read_config(folder: Path) -> tuple[dict[str, Any], Format]:
    path = folder / CONFIG_FILE
    config = read_json(path)
    found = of_algorithm(config.get("quantization", {}).get("quant_algo"), str(path))
    if config["mapping"].get("pp_size", 1) != 1:
        raise UserError("pipeline-parallel checkpoints are not supported", where=str(path), fix="use pp_size 1")
    return config, found
