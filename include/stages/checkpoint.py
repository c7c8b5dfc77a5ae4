"""Reads a TensorRT-LLM W4A16_AWQ checkpoint (``config.json`` and ``rank*.safetensors``) back into PyTorch.

The layout is ModelOpt's (``modelopt/torch/export``, 0.37): two int4 a byte along the output dimension, even
rows in the low nibble; q, k and v merged per rank; ``fc`` is the gate projection, ``gate`` the up projection.
A layer computes ``(x * pre_quant_scale) @ (ints * scales).T + bias``.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch  # noqa: TID253 - runs only in a target's environment

from include.errors import UserError

ALGORITHM = "W4A16_AWQ"
ARCHITECTURES = ("LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM")
_COLUMN_PARALLEL = {"mlp.fc": "mlp.gate_proj", "mlp.gate": "mlp.up_proj"}
_ROW_PARALLEL = {"attention.dense": "self_attn.o_proj", "mlp.proj": "mlp.down_proj"}
_NORMS = {"input_layernorm": "input_layernorm", "post_layernorm": "post_attention_layernorm"}

Merge = Callable[[Sequence[torch.Tensor]], torch.Tensor]


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
        """How many neighbouring inputs share a scale."""
        return int(self.ints.shape[1] // self.scales.shape[1])

    def dequantized(self) -> torch.Tensor:
        """The float32 weight [out, in] for the unscaled input: the input's scale is folded in."""
        weight = self.ints.float().unflatten(1, (-1, self.group_size)) * self.scales.float().unsqueeze(-1)
        scale = 1.0 if self.pre_quant_scale is None else self.pre_quant_scale.float()
        return weight.flatten(1) * scale


def unpack_int4(packed: torch.Tensor) -> torch.Tensor:
    """Int8 [out / 2, in] with two values a byte -> int8 [out, in] with values -8 .. 7."""
    low = ((packed & 0x0F) ^ 8) - 8
    high = packed.view(torch.int8) >> 4
    return torch.stack([low.to(torch.int8), high], dim=1).flatten(0, 1)


class Checkpoint:
    """A TensorRT-LLM checkpoint directory, its tensor-parallel ranks merged, its names those of Hugging Face.

    Raises:
        UserError: the directory is not a W4A16_AWQ checkpoint of a supported architecture, or is incomplete.
    """

    def __init__(self, folder: Path, device: str = "cpu") -> None:
        from safetensors import SafetensorError, safe_open

        self.folder = folder
        self.config = _read_config(folder)
        self.tp_size = int(self.config["mapping"]["tp_size"])
        try:
            paths = [folder / f"rank{rank}.safetensors" for rank in range(self.tp_size)]
            self._ranks = [safe_open(path, framework="pt", device=device) for path in paths]
        except (OSError, SafetensorError) as error:
            raise UserError(f"a weight file cannot be read: {error}", where=str(folder)) from error
        self._names = set(self._ranks[0].keys())

    @property
    def group_size(self) -> int:
        """How many neighbouring inputs share a scale."""
        return int(self.config["quantization"]["group_size"])

    def linears(self) -> Iterator[tuple[str, QuantizedLinear]]:
        """Every quantized layer under its Hugging Face module name, layer after layer."""
        for index in range(self.config["num_hidden_layers"]):
            source, target = f"transformer.layers.{index}", f"model.layers.{index}"
            for name, hf_name in _COLUMN_PARALLEL.items():
                yield f"{target}.{hf_name}", self._linear(f"{source}.{name}", _rows, column_parallel=True)
            for name, hf_name in _ROW_PARALLEL.items():
                yield f"{target}.{hf_name}", self._linear(f"{source}.{name}", _columns, column_parallel=False)
            for position, letter in enumerate("qkv"):
                merge = self._part_of_qkv(position)
                linear = self._linear(f"{source}.attention.qkv", merge, column_parallel=True)
                yield f"{target}.self_attn.{letter}_proj", linear

    def plain(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Every tensor that is not quantized under its Hugging Face name: embeddings, norms, output head."""
        vocab = self.config["vocab_size"]
        embedding = self._merged("transformer.vocab_embedding.weight", _rows)[:vocab]
        yield "model.embed_tokens.weight", embedding
        shared = self.config["share_embedding_table"]
        yield "lm_head.weight", embedding if shared else self._merged("lm_head.weight", _rows)[:vocab]
        yield "model.norm.weight", self._merged("transformer.ln_f.weight", _first)
        for index in range(self.config["num_hidden_layers"]):
            for name, hf_name in _NORMS.items():
                tensor = self._merged(f"transformer.layers.{index}.{name}.weight", _first)
                yield f"model.layers.{index}.{hf_name}.weight", tensor

    def floating(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Every tensor of every rank that is not packed ints, as it is in the files."""
        for rank in self._ranks:
            for name in rank.keys():  # noqa: SIM118 - safe_open is no dict
                if rank.get_slice(name).get_dtype() != "I8":
                    yield name, rank.get_tensor(name)

    def hf_config(self) -> Any:  # noqa: ANN401 - transformers.PretrainedConfig
        """The Hugging Face config, from this checkpoint's config.json alone."""
        import transformers

        config = self.config
        qkv_bias = "transformer.layers.0.attention.qkv.bias" in self._names
        model_class = getattr(transformers, config["architecture"])
        return model_class.config_class(
            architectures=[config["architecture"]],
            attention_bias=qkv_bias,
            head_dim=config["head_size"],
            hidden_act=config["hidden_act"],
            hidden_size=config["hidden_size"],
            intermediate_size=config["intermediate_size"],
            max_position_embeddings=config["max_position_embeddings"],
            mlp_bias="transformer.layers.0.mlp.fc.bias" in self._names,
            num_attention_heads=config["num_attention_heads"],
            num_hidden_layers=config["num_hidden_layers"],
            num_key_value_heads=config["num_key_value_heads"],
            rms_norm_eps=config["norm_epsilon"],
            rope_scaling=config.get("rotary_scaling"),
            rope_theta=config["rotary_base"],
            sliding_window=None,
            tie_word_embeddings=False,
            vocab_size=config["vocab_size"],
        )

    def model(self, dtype: torch.dtype, device_map: str = "cpu") -> Any:  # noqa: ANN401
        """The dequantized `transformers` model, ready to run.

        Args:
            dtype: of all its weights.
            device_map: where it goes, as for `from_pretrained`. Dequantizing takes place on the device that
                the checkpoint was opened on.
        """
        import transformers

        model_class = getattr(transformers, self.config["architecture"])
        model = model_class.from_pretrained(
            None,
            config=self.hf_config(),
            state_dict=self._state(dtype, on_cpu=device_map == "auto"),
            dtype=dtype,
            device_map=device_map,
        )
        return model.eval()

    def _state(self, dtype: torch.dtype, *, on_cpu: bool) -> dict[str, torch.Tensor]:
        """All tensors under their Hugging Face names; ``on_cpu`` when they may not fit one GPU."""
        state = {}

        def keep(name: str, tensor: torch.Tensor) -> None:
            state[name] = tensor.to(dtype).cpu() if on_cpu else tensor.to(dtype)

        for name, tensor in self.plain():
            keep(name, tensor)
        for name, linear in self.linears():
            keep(f"{name}.weight", linear.dequantized())
            if linear.bias is not None:
                keep(f"{name}.bias", linear.bias)
        return state

    def _linear(self, name: str, merge: Merge, *, column_parallel: bool) -> QuantizedLinear:
        scale, bias = f"{name}.prequant_scaling_factor", f"{name}.bias"
        scale_merge, bias_merge = (_first, merge) if column_parallel else (_rows, _first)
        return QuantizedLinear(
            ints=merge([unpack_int4(packed) for packed in self._parts(f"{name}.weight")]),
            scales=self._merged(f"{name}.weights_scaling_factor", merge),
            pre_quant_scale=self._merged(scale, scale_merge) if scale in self._names else None,
            bias=self._merged(bias, bias_merge) if bias in self._names else None,
        )

    def _part_of_qkv(self, position: int) -> Merge:
        """Each rank holds its own q, k and v rows, one after the other."""
        config = self.config
        heads = (config["num_attention_heads"], config["num_key_value_heads"], config["num_key_value_heads"])
        sizes = [count * config["head_size"] // self.tp_size for count in heads]
        return lambda parts: torch.cat([part.split(sizes)[position] for part in parts])

    def _merged(self, name: str, merge: Merge) -> torch.Tensor:
        return merge(self._parts(name))

    def _parts(self, name: str) -> list[torch.Tensor]:
        if name not in self._names:
            raise UserError(f"the checkpoint has no tensor {name}", where=str(self.folder))
        return [rank.get_tensor(name) for rank in self._ranks]


def _rows(parts: Sequence[torch.Tensor]) -> torch.Tensor:
    return torch.cat(list(parts), dim=0)


def _columns(parts: Sequence[torch.Tensor]) -> torch.Tensor:
    return torch.cat(list(parts), dim=1)


def _first(parts: Sequence[torch.Tensor]) -> torch.Tensor:
    return parts[0]


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    try:
        config: dict[str, Any] = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"not a TensorRT-LLM checkpoint: {error}", where=str(path)) from error
    algorithm = config.get("quantization", {}).get("quant_algo")
    if algorithm != ALGORITHM:
        raise UserError(f"the checkpoint's quant_algo is {algorithm}, not {ALGORITHM}", where=str(path))
    if config.get("architecture") not in ARCHITECTURES:
        raise UserError(
            f"architecture {config.get('architecture')} is not supported",
            where=str(path),
            fix=f"supported: {', '.join(ARCHITECTURES)}",
        )
    if config["mapping"].get("pp_size", 1) != 1:
        raise UserError("pipeline-parallel checkpoints are not supported", where=str(path), fix="use pp_size 1")
    return config
