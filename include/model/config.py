"""A model's ``config.json``: support, divisors, and numbers of weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import isclose, log
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, JsonValue, StrictBool, StrictStr, ValidationError

from include.errors import UserError
from include.model.architectures import ARCHITECTURES, NO_WINDOW, TARGETS, Architecture, find_architecture
from include.model.files import CONFIG_FILE
from include.model.kinds import check_kind
from include.reading import Limit, parse_json, read_text

GroupSize = Literal[128, 64, 32, 16]
GROUP_SIZES: tuple[GroupSize, ...] = get_args(GroupSize)
# What both TensorRT-LLM's RotaryScalingType and transformers know by the same name.
ROPE_TYPES = ("linear", "dynamic", "llama3", "yarn")
_NEEDED = {"llama3": ("original_max_position_embeddings", "low_freq_factor", "high_freq_factor")}

OUTPUT_LAYER = "lm_head.weight"

DType = Literal["float16", "bfloat16", "float32"]
DTYPE_BYTES: dict[DType, int] = {"float16": 2, "bfloat16": 2, "float32": 4}
_WHERE = "field model"


# transformers takes no "64" for 64. The kernels count in 32 bits; no known model has more layers than 126.
Count = Annotated[int, Field(strict=True, gt=0, le=2**31 - 1)]
Layers = Annotated[int, Field(strict=True, gt=0, le=10_000)]
Positive = Annotated[float, Field(strict=True, gt=0, le=1e12)]
# transformers takes null for false.
Flag = Annotated[StrictBool, BeforeValidator(lambda value: False if value is None else value)]
NotNegative = Annotated[float, Field(strict=True, ge=0, le=1e12)]


class _Shared(BaseModel):
    """The fields that `ModelConfig` takes as ``config.json`` has them."""

    model_config = ConfigDict(frozen=True, populate_by_name=True)

    hidden_size: Count
    intermediate_size: Count
    layers: Layers = Field(alias="num_hidden_layers")
    heads: Count = Field(alias="num_attention_heads")
    vocab_size: Count
    max_position_embeddings: Count
    tied_embeddings: Flag = Field(False, alias="tie_word_embeddings")


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
    attn_factor: Positive | None = None
    beta_fast: Positive | None = None
    beta_slow: Positive | None = None
    mscale: NotNegative | None = None
    mscale_all_dim: NotNegative | None = None
    truncate: StrictBool | None = None

    def is_yarn_of(self, target: str) -> bool:
        """True if ``target`` computes YaRN as transformers does, which takes ``mscale`` only beside its companion.

        vLLM takes neither, TensorRT-LLM each alone. Neither knows ``attention_factor``, which a config may give as
        what it is by default; vLLM knows ``truncate``, and ``attn_factor``, which transformers passes over.
        """
        if self.attn_factor is not None:
            return False
        if self.attention_factor is not None and (self.mscale or not isclose(self.attention_factor, self._default())):
            return False
        ours = (self.mscale, self.mscale_all_dim) if self.mscale and self.mscale_all_dim else (1, 0)
        alone = (1 if self.mscale is None else self.mscale, self.mscale_all_dim or 0)
        known = {"tensorrt_llm": alone if self.truncate is not False else None, "vllm": (1, 0)}
        return ours == known.get(target, ours)

    def _default(self) -> float:
        """transformers' ``attention_factor`` of YaRN."""
        return 0.1 * log(self.factor) + 1 if self.factor > 1 else 1


class _HfConfig(_Shared):
    """The other fields that count, with the defaults of transformers 4.57 where it has the same."""

    num_key_value_heads: Count | None = None
    head_dim: Count | None = None
    rms_norm_eps: Positive | None = None
    rope_theta: Positive | None = None
    rope_local_base_freq: Positive | None = None
    partial_rotary_factor: Positive = 1
    rope_scaling: dict[str, JsonValue] | None = None
    rope_parameters: dict[str, JsonValue] | None = None
    dtype: StrictStr | None = None
    torch_dtype: StrictStr | None = None
    attention_bias: Flag = False
    mlp_bias: Flag = False
    hidden_act: StrictStr | None = None
    hidden_activation: StrictStr | None = None
    use_sliding_window: Flag = False
    sliding_window: Count | None = None
    max_window_layers: Annotated[int, Field(strict=True, ge=0)] | None = None
    layer_types: list[StrictStr] | None = None
    quantization_config: dict[str, JsonValue] | None = None


class ModelConfig(_Shared):
    """The dimensions of a decoder model. Sizes are counts of elements; ``dtype`` is that of the stored weights.

    ``rope_scaling`` names its kind ``rope_type`` and leaves out the base, which is ``rope_theta``; ``local_rope_theta``
    is that of layers with a window, where a model has another one for these.
    """

    architecture: str
    kv_heads: Count
    head_dim: Count
    rope_theta: Positive
    local_rope_theta: Positive | None = None
    rope_scaling: dict[str, JsonValue] | None
    dtype: DType
    qkv_bias: bool
    output_bias: bool
    mlp_bias: bool
    activation: str
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
            return cls._of(_HfConfig.model_validate({**architecture.defaults, **fields}), architecture, where)
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
        rotary = _rope(raw, architecture, where)
        quantized = raw.quantization_config
        attention_bias, mlp_bias = (
            getattr(raw, name) and name in architecture.biases for name in ("attention_bias", "mlp_bias")
        )
        field, standard = architecture.activation
        return cls(
            **raw.model_dump(include=_Shared.model_fields.keys() - {"max_position_embeddings"}),
            architecture=architecture.name,
            kv_heads=raw.num_key_value_heads or raw.heads,
            head_dim=raw.head_dim or raw.hidden_size // raw.heads,
            max_position_embeddings=rotary.positions,
            rope_theta=rotary.theta,
            local_rope_theta=rotary.local_theta,
            rope_scaling=rotary.scaling,
            dtype=_dtype(raw, where),
            qkv_bias=attention_bias or architecture.qkv_bias,
            output_bias=attention_bias,
            mlp_bias=mlp_bias,
            activation=getattr(raw, field) or standard,
            sliding_window=_sliding_window(raw, architecture, rotary.positions),
            quantization=None if quantized is None else str(quantized.get("quant_method", "quantization_config")),
        )

    def check_calibration(self, group: int | None, seq_len: int, tp: int) -> None:
        """Raises `UserError` where no checkpoint in groups of ``group`` weights can be made for ``tp`` ranks.

        ``group`` is None for a format without groups, ``seq_len`` the length of the calibration samples in tokens.
        """
        self.check_supported()
        self.check_tp(tp)
        if group is not None:
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
        """Raises `UserError` for a model that cannot be calibrated: it is quantized already."""
        if self.quantization is not None:
            raise UserError(
                f"the model is quantized already ({self.quantization})",
                where=_WHERE,
                fix="name the unquantized model that it was made from",
            )

    def check_target(self, target: str, max_seq_len: int, dtype: str) -> None:
        """Raises `UserError`, with what can be had, unless ``target`` serves this model up to ``max_seq_len``."""
        row = ARCHITECTURES[self.architecture]
        if target in row.refused:
            raise UserError(
                f"target {target} cannot serve {self.architecture}: {row.refused[target]}",
                where="field target",
                fix=f"choose target {' or '.join(name for name in TARGETS if name not in row.refused)}",
            )
        if target != "openvino":
            self._check_gpu_target(target)
        if row.needs_bfloat16 and target != "openvino" and dtype != "bfloat16":
            raise UserError(
                f"{self.architecture} computes values that {dtype} does not hold",
                where="field dtype",
                fix="use bfloat16, or choose target openvino",
            )
        if target in NO_WINDOW and self.sliding_window is not None and max_seq_len > self.sliding_window:
            raise UserError(
                f"max_seq_len {max_seq_len} is beyond the window of {self.sliding_window} tokens that the model "
                f"attends to, which target {target} does not serve",
                where="field max_seq_len",
                fix=f"use at most {self.sliding_window}, or choose target openvino or vllm",
            )

    def _check_gpu_target(self, target: str) -> None:
        """Raises `UserError` for what `openvino`, whose engine is made of transformers' own graph, alone computes."""
        row = ARCHITECTURES[self.architecture]
        field, standard = row.activation
        if self.output_bias and "mlp_bias" not in row.biases:
            raise UserError(
                f"target {target} leaves biases after the attention of a {self.architecture} out",
                where="field target",
                fix="choose target openvino",
            )
        if self.activation != standard:
            raise UserError(
                f"target {target} computes the activation {standard} only, the model's {field} is {self.activation}",
                where="field target",
                fix="choose target openvino",
            )
        scaling = self.rope_scaling or {}
        yarn = _Rope.model_validate(scaling) if scaling.get("rope_type") == "yarn" else None
        if yarn and not yarn.is_yarn_of(target):
            others = " or ".join(name for name in TARGETS if name == "openvino" or yarn.is_yarn_of(name))
            raise UserError(
                f"target {target} computes another YaRN than transformers where rope_scaling has attention_factor, "
                "attn_factor, mscale or truncate as this model's",
                where="field target",
                fix=f"choose target {others}",
            )

    def quantized_input_dims(self, tp: int = 1) -> dict[str, int]:
        """Input dimensions, on each of ``tp`` ranks, of the linear layers that are quantized.

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
    def tensor_shapes(self) -> dict[str, tuple[int, ...]]:
        """The tensors in the files of such a model by their names; with tied embeddings the output layer's, too."""
        tensors = ARCHITECTURES[self.architecture].tensors
        matrix = (self.vocab_size, self.hidden_size)
        layer = self._layer_shapes
        return {
            f"{tensors.embedding[0]}.weight": matrix,
            OUTPUT_LAYER: matrix,
            f"{tensors.final_norm[0]}.weight": (self.hidden_size,),
            **{f"model.layers.{n}.{name}": shape for n in range(self.layers) for name, shape in layer.items()},
        }

    @property
    def _layer_shapes(self) -> dict[str, tuple[int, ...]]:
        """The tensors of one layer, by their names in it."""
        row = ARCHITECTURES[self.architecture]
        linears = self._linears
        for fused, parts in row.fused.items():
            taken = [linears.pop(part) for part in parts]
            linears[fused] = (sum(rows for rows, _, _ in taken), taken[0][1], any(bias for _, _, bias in taken))
        weights = {f"{name}.weight": (rows, columns) for name, (rows, columns, _) in linears.items()}
        biases = {f"{name}.bias": (rows,) for name, (rows, _, bias) in linears.items() if bias}
        heads = {"self_attn.q_norm": self.heads, "self_attn.k_norm": self.kv_heads}
        norms = {
            f"{name}.weight": (
                self.head_dim * (heads[name] if row.qk_norm_of_all_heads else 1) if name in heads else self.hidden_size,
            )
            for name in row.tensors.norms
        }
        return {**weights, **biases, **norms}

    @property
    def _linears(self) -> dict[str, tuple[int, int, bool]]:
        """The linear layers of a layer: outputs, inputs, and whether there is a bias."""
        tensors = ARCHITECTURES[self.architecture].tensors
        hidden, mlp = self.hidden_size, self.intermediate_size
        widths = (self.heads, self.kv_heads, self.kv_heads)
        return {
            **{
                name: (count * self.head_dim, hidden, self.qkv_bias)
                for name, count in zip(tensors.attention, widths, strict=True)
            },
            **dict.fromkeys(tensors.column_parallel, (mlp, hidden, self.mlp_bias)),
            "self_attn.o_proj": (hidden, self.heads * self.head_dim, self.output_bias),
            "mlp.down_proj": (hidden, mlp, self.mlp_bias),
        }

    @property
    def linear_weights(self) -> int:
        """Weights that are quantized: layers x (query, key, value, output; gate, up, down)."""
        return self.layers * sum(outputs * inputs for outputs, inputs, _ in self._linears.values())

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
        of_layer = sum(shape[0] for shape in self._layer_shapes.values() if len(shape) == 1)
        return self.hidden_size + self.layers * of_layer


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


@dataclass(frozen=True)
class _Rotary:
    """A model's rotary embedding: base, that of layers with a window if theirs is another, scaling, positions."""

    theta: float
    local_theta: float | None
    scaling: dict[str, JsonValue] | None
    positions: int


def _rope(raw: _HfConfig, architecture: Architecture, where: str) -> _Rotary:
    """transformers 5 keeps base and scaling in ``rope_parameters``, 4 at the top level.

    ``type`` is the older name of ``rope_type``; version 5 says "default" for no scaling. YaRN serves its factor times
    the positions that the model was trained with, whatever ``max_position_embeddings`` says.
    """
    scaling, local = _parameters(raw, architecture.has_local_rotary_base, where)
    theta = _Base.model_validate({"rope_theta": scaling.pop("rope_theta", raw.rope_theta or 10000.0)}).rope_theta
    old = scaling.pop("type", None)
    kind = scaling.pop("rope_type", old)
    if kind is None and "factor" in scaling:
        raise ValueError("the rotary scaling has a factor and no rope_type")
    if scaling.pop("partial_rotary_factor", raw.partial_rotary_factor) != 1:
        raise UserError(
            f"{where}: a rotary embedding of a part of each head is not supported",
            where=_WHERE,
            fix="use a model without partial_rotary_factor",
        )
    positions = raw.max_position_embeddings
    if kind in ("default", None):
        return _Rotary(theta, local, None, positions)
    if kind not in ROPE_TYPES:
        raise UserError(
            f"{where}: the rotary scaling {kind} is not supported",
            where=_WHERE,
            fix=f"use a model without one, or with one of these: {', '.join(ROPE_TYPES)}",
        )
    scaling = {name: value for name, value in scaling.items() if value is not None}
    known = _Rope.model_validate(scaling)
    if lost := [name for name in _NEEDED.get(str(kind), ()) if name not in scaling]:
        raise ValueError(f"the rotary scaling {kind} needs {', '.join(lost)}")
    if kind == "dynamic":  # changes nothing within the positions, and beyond them nothing is served
        return _Rotary(theta, local, None, positions)
    if kind == "yarn":
        trained = known.original_max_position_embeddings or positions
        scaling["original_max_position_embeddings"] = trained
        positions = max(positions, int(trained * known.factor))
    return _Rotary(theta, local, {"rope_type": kind, **scaling}, positions)


def _parameters(raw: _HfConfig, local: bool, where: str) -> tuple[dict[str, JsonValue], float | None]:
    """The rotary parameters, and the base of layers with a window: Gemma 3 in transformers 5 has a set for each."""
    found = dict(raw.rope_scaling or {} if raw.rope_parameters is None else raw.rope_parameters)
    base = raw.rope_local_base_freq if local else None
    whole, windowed = found.get("full_attention"), found.get("sliding_attention")
    if local and isinstance(whole, dict) and isinstance(windowed, dict):
        found, base = dict(whole), _Base.model_validate(windowed).rope_theta
    if any(isinstance(value, dict) for value in found.values()):
        raise UserError(
            f"{where}: rotary settings for each kind of layer are not supported",
            where=_WHERE,
            fix=f"use a model with one rotary scaling for all layers: none, or one of {', '.join(ROPE_TYPES)}",
        )
    return found, base


def _dtype(raw: _HfConfig, where: str) -> DType:
    name = (raw.dtype or raw.torch_dtype or "float32").removeprefix("torch.")
    for known in DTYPE_BYTES:
        if name == known:
            return known
    raise _bad_config(where, f"dtype: {name} is not one of {', '.join(DTYPE_BYTES)}")


def _sliding_window(raw: _HfConfig, architecture: Architecture, positions: int) -> int | None:
    """The window where it takes effect."""
    window = raw.sliding_window
    if architecture.window_is_switched and not raw.use_sliding_window:
        return None
    if raw.max_window_layers is not None and not _has_windowed_layer(raw):
        return None
    return None if window is None or window >= positions else window


def _has_windowed_layer(raw: _HfConfig) -> bool:
    """Qwen's first layers attend to all tokens, and often these are all that there are."""
    if raw.layer_types is not None:
        return "sliding_attention" in raw.layer_types
    return raw.layers > (raw.max_window_layers or 0)
