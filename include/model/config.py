"""A model's ``config.json``: support, divisors, and numbers of weights."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import BaseModel, ConfigDict, Field, JsonValue, StrictBool, StrictStr, ValidationError

from include.errors import UserError
from include.model.architectures import ARCHITECTURES, Architecture, find_architecture
from include.model.files import CONFIG_FILE
from include.model.kinds import check_kind
from include.reading import Limit, parse_json, read_text

GroupSize = Literal[128, 64, 32, 16]
GROUP_SIZES: tuple[GroupSize, ...] = get_args(GroupSize)
# What both TensorRT-LLM's RotaryScalingType and transformers know by the same name.
ROPE_TYPES = ("linear", "dynamic", "llama3", "yarn")

OUTPUT_LAYER = "lm_head.weight"

DType = Literal["float16", "bfloat16", "float32"]
DTYPE_BYTES: dict[DType, int] = {"float16": 2, "bfloat16": 2, "float32": 4}
_WHERE = "field model"


# transformers takes no "64" for 64. The kernels count in 32 bits; no known model has more layers than 126.
Count = Annotated[int, Field(strict=True, gt=0, le=2**31 - 1)]
Layers = Annotated[int, Field(strict=True, gt=0, le=10_000)]
Positive = Annotated[float, Field(strict=True, gt=0, le=1e12)]


class _Shared(BaseModel):
    """The fields that `ModelConfig` takes as ``config.json`` has them."""

    model_config = ConfigDict(frozen=True, populate_by_name=True)

    hidden_size: Count
    intermediate_size: Count
    layers: Layers = Field(alias="num_hidden_layers")
    heads: Count = Field(alias="num_attention_heads")
    vocab_size: Count
    max_position_embeddings: Count
    tied_embeddings: StrictBool = Field(False, alias="tie_word_embeddings")
    mlp_bias: StrictBool = False


class _Base(BaseModel):
    """The base of the rotary embedding."""

    rope_theta: Positive


class _Rope(BaseModel):
    """The rotary scaling of one of `ROPE_TYPES`: what transformers and TensorRT-LLM compute with."""

    factor: Positive
    original_max_position_embeddings: Count | None = None
    low_freq_factor: Positive | None = None
    high_freq_factor: Positive | None = None
    attention_factor: Positive | None = None
    beta_fast: Positive | None = None
    beta_slow: Positive | None = None


class _HfConfig(_Shared):
    """The other fields that count, with the defaults of transformers 4.57 where it has the same."""

    num_key_value_heads: Count | None = None
    head_dim: Count | None = None
    rms_norm_eps: Positive | None = None
    rope_theta: Positive | None = None
    rope_scaling: dict[str, JsonValue] | None = None
    rope_parameters: dict[str, JsonValue] | None = None
    dtype: StrictStr | None = None
    torch_dtype: StrictStr | None = None
    attention_bias: StrictBool = False
    use_sliding_window: StrictBool = False
    sliding_window: Count | None = None
    quantization_config: dict[str, JsonValue] | None = None


class ModelConfig(_Shared):
    """The dimensions of a decoder model. Sizes are counts of elements; ``dtype`` is that of the stored weights.

    ``rope_scaling`` names its kind ``rope_type`` and leaves out the base, which is ``rope_theta``.
    """

    architecture: str
    kv_heads: Count
    head_dim: Count
    rope_theta: Positive
    rope_scaling: dict[str, JsonValue] | None
    dtype: DType
    qkv_bias: bool
    output_bias: bool
    sliding_window: Count | None
    quantization: str | None

    @classmethod
    def read(cls, path: Path) -> Self:
        """The configuration in ``path``, a model's directory or its ``config.json``.

        Raises:
            UserError: as for `parse`, or the file cannot be read.
        """
        file = path / CONFIG_FILE if path.is_dir() else path
        try:
            text = read_text(file, Limit.SETTINGS)
        except (OSError, ValueError) as error:
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
        try:
            fields = parse_json(text)
            if not isinstance(fields, dict):
                raise ValueError("it is not a JSON object")
            # First of all: another class has other fields.
            check_kind(fields, _names(fields), where)
            architecture = find_architecture(_names(fields), where, _WHERE)
            return cls._of(_HfConfig.model_validate(fields), architecture, where)
        except ValidationError as error:
            problems = [": ".join(filter(None, (".".join(map(str, e["loc"])), e["msg"]))) for e in error.errors()]
            raise _bad_config(where, "; ".join(problems)) from error
        except ValueError as error:
            raise _bad_config(where, str(error)) from error

    @classmethod
    def _of(cls, raw: _HfConfig, architecture: Architecture, where: str) -> Self:
        if raw.heads % (raw.num_key_value_heads or raw.heads):
            raise ValueError(
                f"{raw.heads} attention heads cannot share {raw.num_key_value_heads} key-value heads equally"
            )
        theta, scaling = _rope(raw, where)
        quantized = raw.quantization_config
        return cls(
            **raw.model_dump(include=set(_Shared.model_fields)),
            architecture=architecture.name,
            kv_heads=raw.num_key_value_heads or raw.heads,
            head_dim=raw.head_dim or raw.hidden_size // raw.heads,
            rope_theta=theta,
            rope_scaling=scaling,
            dtype=_dtype(raw, where),
            qkv_bias=raw.attention_bias or architecture.qkv_bias,
            output_bias=raw.attention_bias,
            sliding_window=_sliding_window(raw, architecture),
            quantization=None if quantized is None else str(quantized.get("quant_method", "quantization_config")),
        )

    def check_calibration(self, group: int, seq_len: int, tp: int) -> None:
        """Raises `UserError` where no INT4 AWQ checkpoint in groups of ``group`` can be made for ``tp`` ranks.

        ``seq_len`` is the length of the calibration samples in tokens.
        """
        self.check_supported()
        self.check_tp(tp)
        self.check_group_size(group, tp)
        self._check_positions("calib_seq_len", seq_len)

    def _check_positions(self, field: str, length: int) -> None:
        if length > self.max_position_embeddings:
            raise UserError(
                f"{field} {length} is beyond the model's {self.max_position_embeddings} positions",
                where=f"field {field}",
                fix=f"use at most {self.max_position_embeddings}",
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
        """Raises `UserError`, with a size that fits, unless ``group`` divides every quantized input dimension."""
        dims = self.quantized_input_dims(tp)
        wrong = [f"{name} {dim}" for name, dim in dims.items() if dim % group]
        if not wrong:
            return
        fits = next((size for size in allowed if not any(dim % size for dim in dims.values())), None)
        ranks = f" on each of {tp} ranks" if tp > 1 else ""
        raise UserError(
            f"group size {group} does not divide the model's dimensions{ranks}: {', '.join(wrong)}",
            where="field awq_group_size",
            fix=f"use {fits}" if fits else "no group size fits: use another tp_size, or another model",
        )

    def check_tp(self, tp: int) -> None:
        """Raises `UserError`, with the sizes that work, unless ``tp`` ranks get equal shares of heads and MLP."""
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
        """Raises `UserError` unless max_input_len < max_seq_len <= the model's positions, all in tokens."""
        self._check_positions("max_seq_len", max_seq_len)
        if max_input_len >= max_seq_len:
            raise UserError(
                f"max_input_len {max_input_len} leaves no room for an answer within max_seq_len {max_seq_len}",
                where="field max_input_len",
                fix=f"use at most {max_seq_len - 1}: max_seq_len counts the prompt and the answer",
            )

    @property
    def tensor_names(self) -> frozenset[str]:
        """The names of the tensors in the files of such a model; with tied embeddings the output layer's, too."""
        tensors = ARCHITECTURES[self.architecture].tensors
        biased = {
            **dict.fromkeys(tensors.attention, self.qkv_bias),
            **dict.fromkeys(tensors.column_parallel, self.mlp_bias),
            "self_attn.o_proj": self.output_bias,
            "mlp.down_proj": self.mlp_bias,
            **dict.fromkeys(tensors.norms, False),
        }
        names = [f"{module}.weight" for module in biased] + [f"{module}.bias" for module, has in biased.items() if has]
        layers = {f"model.layers.{number}.{name}" for number in range(self.layers) for name in names}
        return frozenset({f"{tensors.embedding[0]}.weight", f"{tensors.final_norm[0]}.weight", OUTPUT_LAYER} | layers)

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
        return self.linear_weights + self.embedding_weights + self.norm_and_bias_weights

    @property
    def norm_and_bias_weights(self) -> int:
        """Weights that keep their type besides the embeddings: of the norms and of the biases."""
        norms = (2 * self.layers + 1) * self.hidden_size
        qkv = self.head_dim * (self.heads + 2 * self.kv_heads) * self.qkv_bias
        mlp = (2 * self.intermediate_size + self.hidden_size) * self.mlp_bias
        return norms + self.layers * (qkv + mlp + self.hidden_size * self.output_bias)


def _names(fields: dict[str, Any]) -> list[str]:
    """The classes that ``config.json`` names."""
    named = fields.get("architectures")
    return [name for name in named if isinstance(name, str)] if isinstance(named, list) else []


def _bad_config(where: str, reason: str) -> UserError:
    return UserError(
        f"{CONFIG_FILE} of {where} cannot be used: {reason}",
        where=_WHERE,
        fix="name a model whose config.json is complete, as transformers writes it",
    )


def _rope(raw: _HfConfig, where: str) -> tuple[float, dict[str, JsonValue] | None]:
    """Rotary base and scaling: transformers 5 keeps both in ``rope_parameters``, 4 at the top level.

    ``type`` is the older name of ``rope_type``; version 5 says "default" for no scaling.
    """
    scaling = dict(raw.rope_scaling or {} if raw.rope_parameters is None else raw.rope_parameters)
    if any(isinstance(value, dict) for value in scaling.values()):
        raise UserError(
            f"{where}: rotary settings for each kind of layer are not supported",
            where=_WHERE,
            fix=f"use a model with one rotary scaling for all layers: none, or one of {', '.join(ROPE_TYPES)}",
        )
    theta = _Base.model_validate({"rope_theta": scaling.pop("rope_theta", raw.rope_theta or 10000.0)}).rope_theta
    old = scaling.pop("type", "default")
    kind = scaling.pop("rope_type", old)
    if kind == "default":
        return theta, None
    if kind not in ROPE_TYPES:
        raise UserError(
            f"{where}: the rotary scaling {kind} is not supported",
            where=_WHERE,
            fix=f"use a model without one, or with one of these: {', '.join(ROPE_TYPES)}",
        )
    _Rope.model_validate(scaling)
    return theta, {"rope_type": kind, **scaling}


def _dtype(raw: _HfConfig, where: str) -> DType:
    name = (raw.dtype or raw.torch_dtype or "float32").removeprefix("torch.")
    for known in DTYPE_BYTES:
        if name == known:
            return known
    raise _bad_config(where, f"dtype: {name} is not one of {', '.join(DTYPE_BYTES)}")


def _sliding_window(raw: _HfConfig, architecture: Architecture) -> int | None:
    """The window where it takes effect; see `Architecture.default_window`."""
    window = raw.sliding_window
    if architecture.default_window is None:
        window = window if raw.use_sliding_window else None
    elif "sliding_window" not in raw.model_fields_set:
        window = architecture.default_window
    return None if window is None or window >= raw.max_position_embeddings else window
