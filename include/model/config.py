"""What a model's ``config.json`` says: is it supported, what divides, how large everything will be."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, JsonValue, PositiveFloat, PositiveInt, ValidationError

from include.errors import UserError

SUPPORTED_ARCHITECTURES = ("LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM")
"""Decoders whose checkpoint each target's builder can read."""

GROUP_SIZES = (128, 64, 32, 16)
CONFIG_FILE = "config.json"

DType = Literal["float16", "bfloat16", "float32"]
_DTYPE_BYTES: dict[DType, int] = {"float16": 2, "bfloat16": 2, "float32": 4}
_DEFAULT_ROPE_THETA = 10000.0
_MISTRAL_WINDOW = 4096
_WHERE = "field model"


class _HfConfig(BaseModel):
    """The fields of ``config.json`` that count, with the defaults of transformers 4.57 where it has the same."""

    architectures: list[str] = Field(default_factory=list)
    hidden_size: PositiveInt
    intermediate_size: PositiveInt
    num_hidden_layers: PositiveInt
    num_attention_heads: PositiveInt
    num_key_value_heads: PositiveInt | None = None
    head_dim: PositiveInt | None = None
    vocab_size: PositiveInt
    max_position_embeddings: PositiveInt
    rope_theta: PositiveFloat | None = None
    rope_scaling: dict[str, JsonValue] | None = None
    rope_parameters: dict[str, JsonValue] | None = None
    dtype: str | None = None
    torch_dtype: str | None = None
    tie_word_embeddings: bool = False
    attention_bias: bool = False
    mlp_bias: bool = False
    use_sliding_window: bool = False
    sliding_window: PositiveInt | None = None
    quantization_config: dict[str, JsonValue] | None = None


class ModelConfig(BaseModel):
    """The dimensions of a decoder model. Sizes are counts of elements; ``dtype`` is that of the stored weights."""

    model_config = ConfigDict(frozen=True)

    architecture: str
    hidden_size: PositiveInt
    intermediate_size: PositiveInt
    layers: PositiveInt
    heads: PositiveInt
    kv_heads: PositiveInt
    head_dim: PositiveInt
    vocab_size: PositiveInt
    max_position_embeddings: PositiveInt
    rope_theta: PositiveFloat
    rope_scaling: dict[str, JsonValue] | None
    dtype: DType
    tied_embeddings: bool
    qkv_bias: bool
    output_bias: bool
    mlp_bias: bool
    sliding_window: PositiveInt | None
    quantization: str | None

    @classmethod
    def read(cls, path: Path) -> Self:
        """The configuration in ``path``, a model's directory or its ``config.json``.

        Raises:
            UserError: as for `parse`, or the file cannot be read.
        """
        file = path / CONFIG_FILE if path.is_dir() else path
        try:
            text = file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(
                f"{file} cannot be read: {error}", where=_WHERE, fix="name a complete model directory"
            ) from error
        return cls.parse(text, where=str(path))

    @classmethod
    def parse(cls, text: str, *, where: str) -> Self:
        """The configuration in the JSON ``text`` of the model ``where``.

        Raises:
            UserError: no JSON object, an architecture that is not supported, or a field that is missing or
                wrong, which the message names.
        """
        fields = _object(text, where)
        architecture = _architecture(fields, where)
        try:
            raw = _HfConfig.model_validate(fields)
        except ValidationError as error:
            problems = [f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()]
            raise _bad_config(where, "; ".join(problems)) from error
        return cls(
            architecture=architecture,
            hidden_size=raw.hidden_size,
            intermediate_size=raw.intermediate_size,
            layers=raw.num_hidden_layers,
            heads=raw.num_attention_heads,
            kv_heads=raw.num_key_value_heads or raw.num_attention_heads,
            head_dim=raw.head_dim or raw.hidden_size // raw.num_attention_heads,
            vocab_size=raw.vocab_size,
            max_position_embeddings=raw.max_position_embeddings,
            rope_theta=_rope_theta(raw, where),
            rope_scaling=_rope_scaling(raw),
            dtype=_dtype(raw, where),
            tied_embeddings=raw.tie_word_embeddings,
            qkv_bias=raw.attention_bias or architecture == "Qwen2ForCausalLM",
            output_bias=raw.attention_bias,
            mlp_bias=raw.mlp_bias,
            sliding_window=_sliding_window(raw, architecture),
            quantization=_quantization(raw),
        )

    def check_supported(self) -> None:
        """Raises `UserError` for a model that cannot be calibrated: quantized already, or with a sliding window."""
        if self.quantization is not None:
            raise UserError(
                f"the model is quantized already ({self.quantization})",
                where=_WHERE,
                fix="name the unquantized model that it was made from",
            )
        if self.sliding_window is not None:
            raise UserError(
                f"the model attends to a sliding window of {self.sliding_window} tokens, which is not supported",
                where=_WHERE,
                fix="name a version without one, such as Mistral-7B-Instruct-v0.2 or later",
            )

    def quantized_input_dims(self, tp: int = 1) -> dict[str, int]:
        """Input dimensions, on each of ``tp`` ranks, of the linear layers that become int4.

        The layers before attention and before the MLP are split by output, those after them by input.
        """
        return {
            "qkv, gate, up": self.hidden_size,
            "attention output": self.heads * self.head_dim // tp,
            "down": self.intermediate_size // tp,
        }

    def check_group_size(self, group: int, tp: int = 1, allowed: Sequence[int] = GROUP_SIZES) -> None:
        """Checks that ``group`` divides every quantized input dimension, as the export demands.

        Raises:
            UserError: names the dimension and a size out of ``allowed`` that fits.
        """
        dims = self.quantized_input_dims(tp)
        wrong = [f"{name} {dim}" for name, dim in dims.items() if dim % group]
        if not wrong:
            return
        fits = next((size for size in allowed if not any(dim % size for dim in dims.values())), None)
        raise UserError(
            f"group size {group} does not divide the model's dimensions: {', '.join(wrong)}",
            where="field awq_group_size",
            fix=f"use {fits}" if fits else "no group size fits: use another tp_size, or another model",
        )

    def check_tp(self, tp: int) -> None:
        """Checks that ``tp`` ranks get equal shares of heads and MLP.

        Raises:
            UserError: names the sizes that work.
        """
        if self._splits(tp):
            return
        works = [str(size) for size in range(1, 9) if self._splits(size)]
        raise UserError(
            f"{tp} ranks cannot share {self.heads} heads, {self.kv_heads} key-value heads and an MLP of "
            f"{self.intermediate_size} equally",
            where="field tp_size",
            fix=f"use one of {', '.join(works)}",
        )

    def _splits(self, tp: int) -> bool:
        return not (self.heads % tp or self.kv_heads % tp or self.intermediate_size % tp)

    def check_lengths(self, max_input_len: int, max_seq_len: int) -> None:
        """Checks max_input_len < max_seq_len <= the model's positions, in tokens.

        Raises:
            UserError: names the field and its limit.
        """
        if max_seq_len > self.max_position_embeddings:
            raise UserError(
                f"max_seq_len {max_seq_len} is beyond the model's {self.max_position_embeddings} positions",
                where="field max_seq_len",
                fix=f"use at most {self.max_position_embeddings}",
            )
        if max_input_len >= max_seq_len:
            raise UserError(
                f"max_input_len {max_input_len} leaves no room for an answer within max_seq_len {max_seq_len}",
                where="field max_input_len",
                fix=f"use at most {max_seq_len - 1}: max_seq_len counts the prompt and the answer",
            )

    @property
    def linear_weights(self) -> int:
        """Weights that become int4: layers x (query, key, value, output; gate, up, down)."""
        attention = self.hidden_size * self.head_dim * 2 * (self.heads + self.kv_heads)
        return self.layers * (attention + 3 * self.hidden_size * self.intermediate_size)

    @property
    def embedding_weights(self) -> int:
        """Weights of the embedding and of the output layer, which are one matrix in a tied model."""
        return self.vocab_size * self.hidden_size * (1 if self.tied_embeddings else 2)

    @property
    def parameters(self) -> int:
        """All weights of the model: linear layers, embeddings, norms, biases."""
        return self.linear_weights + self.embedding_weights + self._norms_and_biases

    @property
    def _norms_and_biases(self) -> int:
        norms = (2 * self.layers + 1) * self.hidden_size
        qkv = self.head_dim * (self.heads + 2 * self.kv_heads) * self.qkv_bias
        mlp = (2 * self.intermediate_size + self.hidden_size) * self.mlp_bias
        return norms + self.layers * (qkv + mlp + self.hidden_size * self.output_bias)

    def model_bytes(self, dtype: DType | None = None) -> int:
        """The weights in ``dtype`` (else as stored): parameters x bytes of the type."""
        return self.parameters * _DTYPE_BYTES[dtype or self.dtype]

    def checkpoint_bytes(self, group: int) -> int:
        """A TensorRT-LLM int4 AWQ checkpoint, of all ranks together.

        linear weights / 2 (int4) + linear weights / group x 4 (a float32 scale a group) + 2 x (embedding and
        output layer, which ModelOpt writes apart even for a tied model, norms, biases, and a pre-quantization
        scale for each input of qkv, attention output, gate, up, down).
        """
        inputs = self.layers * (3 * self.hidden_size + self.heads * self.head_dim + self.intermediate_size)
        halves = 2 * self.vocab_size * self.hidden_size + self._norms_and_biases + inputs
        return self.linear_weights // 2 + self.linear_weights // group * 4 + 2 * halves

    def engine_bytes(self, group: int) -> int:
        """An engine, at most: as the checkpoint, but with 16-bit scales.

        linear weights / 2 + linear weights / group x 2 + 2 x (embedding and output layer, norms, biases).
        """
        halves = 2 * self.vocab_size * self.hidden_size + self._norms_and_biases
        return self.linear_weights // 2 + self.linear_weights // group * 2 + 2 * halves

    def pipeline_disk_bytes(self, group: int) -> int:
        """What a whole run writes at its peak besides the model's own files.

        Checkpoint + engine + what the build unpacks meanwhile (the model in 16 bits) + 5 % and 64 MB for
        tokenizers, reports and logs. The repository and the release are hard links.
        """
        files = self.checkpoint_bytes(group) + self.engine_bytes(group) + self.model_bytes("float16")
        return files + files // 20 + 64_000_000

    def calibration_bytes(self, batch: int, seq_len: int, dtype: DType = "float16") -> int:
        """Memory that calibration takes at its peak, for ``batch`` samples of ``seq_len`` tokens at once.

        Weights + 2 x tokens x (KV cache + logits + the MLP's three activations with AWQ's two outputs and
        their float32 difference and square + six hidden states). The factor 2 is for the allocator; it is set
        by Llama-2-7B with 32 x 512 tokens in float16 on an H100, which took 36 GiB (this gives 38).
        """
        size = _DTYPE_BYTES[dtype]
        mlp = self.intermediate_size * (5 * size + 8)
        token = self.kv_cache_bytes_per_token(dtype) + (self.vocab_size + 6 * self.hidden_size) * size + mlp
        return self.model_bytes(dtype) + 2 * batch * seq_len * token

    def kv_cache_bytes_per_token(self, dtype: DType = "float16") -> int:
        """KV cache of one token, over all ranks: 2 x layers x key-value heads x head size x bytes of the type."""
        return 2 * self.layers * self.kv_heads * self.head_dim * _DTYPE_BYTES[dtype]


def _object(text: str, where: str) -> dict[str, Any]:
    try:
        fields = json.loads(text)
    except ValueError as error:
        raise _bad_config(where, str(error)) from error
    if not isinstance(fields, dict):
        raise _bad_config(where, "it is not a JSON object")
    return fields


def _bad_config(where: str, reason: str) -> UserError:
    return UserError(
        f"{CONFIG_FILE} of {where} cannot be used: {reason}",
        where=_WHERE,
        fix="name a model whose config.json is complete, as transformers writes it",
    )


def _architecture(fields: dict[str, Any], where: str) -> str:
    named = fields.get("architectures")
    names = [str(name) for name in named] if isinstance(named, list) else []
    supported = next((name for name in names if name in SUPPORTED_ARCHITECTURES), None)
    if supported is None:
        raise UserError(
            f"the architecture {' '.join(names) or 'that ' + CONFIG_FILE + ' leaves out'} of {where} is not supported",
            where=_WHERE,
            fix=f"name a model of one of these: {', '.join(SUPPORTED_ARCHITECTURES)}",
        )
    return supported


def _rope_theta(raw: _HfConfig, where: str) -> float:
    if raw.rope_theta is not None:
        return raw.rope_theta
    theta = (raw.rope_parameters or {}).get("rope_theta", _DEFAULT_ROPE_THETA)
    if not isinstance(theta, int | float) or theta <= 0:
        raise _bad_config(where, "rope_parameters.rope_theta: not a positive number")
    return float(theta)


def _rope_scaling(raw: _HfConfig) -> dict[str, JsonValue] | None:
    """The scaling as version 4 has it; version 5 keeps the base beside it, and says "default" for none."""
    if raw.rope_parameters is None or raw.rope_scaling is not None:
        return raw.rope_scaling
    scaling = {key: value for key, value in raw.rope_parameters.items() if key != "rope_theta"}
    return None if scaling.get("rope_type", "default") == "default" else scaling


def _dtype(raw: _HfConfig, where: str) -> DType:
    name = (raw.dtype or raw.torch_dtype or "float32").removeprefix("torch.")
    for known in _DTYPE_BYTES:
        if name == known:
            return known
    raise _bad_config(where, f"dtype: {name} is not one of {', '.join(_DTYPE_BYTES)}")


def _sliding_window(raw: _HfConfig, architecture: str) -> int | None:
    """The window where it takes effect: Qwen2 has a switch for it, Mistral has one unless it says null."""
    if architecture == "MistralForCausalLM":
        window = raw.sliding_window if "sliding_window" in raw.model_fields_set else _MISTRAL_WINDOW
    else:
        window = raw.sliding_window if raw.use_sliding_window else None
    return None if window is None or window >= raw.max_position_embeddings else window


def _quantization(raw: _HfConfig) -> str | None:
    if raw.quantization_config is None:
        return None
    return str(raw.quantization_config.get("quant_method", "quantization_config"))
