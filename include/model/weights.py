"""Safetensors weights: every file whole, with every tensor that the index promises. Only headers are read."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from include.errors import UserError
from include.model.architectures import ARCHITECTURES
from include.model.config import OUTPUT_LAYER, ModelConfig
from include.model.files import (
    CONFIG_FILE,
    INDEX_FILE,
    LFS_POINTER,
    WEIGHTS_FILE,
    bad_file,
    check_no_pointer,
    read_file,
)
from include.reading import Limit, open_regular, parse_json

_MAX_DIMENSIONS = 8
"""Of one tensor. Those of a decoder have two, and PyTorch ends at 64."""
_BUFFERS = (".rotary_emb.inv_freq", ".masked_bias", ".attn.bias")
"""Of what transformers computes anew, old versions of it saved a copy."""
_FRAMEWORKS = ("pt", "mlx")
_SAMPLES, _SAMPLE_BYTES = 64, 4096
_PLAIN = frozenset({"F16", "BF16", "F32", "F64"})
_METHODS = {"F8": "FP8", "U8": "four bits, packed", "I8": "INT8", "I32": "packed integers", "F4": "FP4"}
_ADAPTER = "LoRA"
_QUANTIZED = {
    "GPTQ or AWQ": re.compile(r"\.(qweight|qzeros|g_idx)$"),
    "bitsandbytes": re.compile(r"\.(absmax|quant_map|nested_absmax|nested_quant_map|SCB)$|\.quant_state\."),
    "NVFP4": re.compile(r"\.weight_scale_2$"),
    "compressed-tensors": re.compile(r"\.weight_(packed|global_scale|zero_point|shape)$"),
    "FP8 or INT8": re.compile(r"\.(weight_scale(_inv)?|input_scale)$"),
    _ADAPTER: re.compile(r"\.lora_(A|B|embedding_A|embedding_B)\b|\.base_layer\."),
}
"""What each method of quantization, and an adapter, call their tensors."""


@dataclass(frozen=True)
class Tensor:
    """A tensor as a header describes it: ``dtype`` is the format's own name of the type, such as F16; and its file."""

    dtype: str
    shape: tuple[int, ...]
    file: str = ""


@dataclass(frozen=True)
class Weights:
    """The weights of a model by their headers; ``size`` is the bytes of all files."""

    folder: Path
    size: int
    tensors: Mapping[str, Tensor]

    @classmethod
    def read(cls, folder: Path) -> Weights:
        """The weights of the model in ``folder``, where, as in transformers, one file goes before an index.

        Raises:
            UserError: names a file that is missing, cut, damaged, or lacks a tensor.
        """
        tensors: dict[str, Tensor] = {}
        expected = _files(folder)
        for file, promised in expected.items():
            found = read_tensors(folder / file)
            if lost := promised - found.keys():
                raise UserError(
                    f"{file} lacks the tensor {min(lost)} that {INDEX_FILE} promises",
                    where=f"field model: {folder / file}",
                    fix="save the model again: index and shards are not of one save",
                )
            unnamed = sorted(name for name in found.keys() - promised if not name.endswith(_BUFFERS))
            if promised and unnamed:
                # transformers loads what the index names, and makes random weights in place of the rest.
                raise UserError(
                    f"{file} holds the tensor {unnamed[0]} that {INDEX_FILE} does not name for it",
                    where=f"field model: {folder / file}",
                    fix="save the model again: index and shards are not of one save",
                )
            tensors |= found
        return cls(folder, sum((folder / file).stat().st_size for file in expected), tensors)

    def check(self, config: ModelConfig) -> None:
        """Raises `UserError` unless the tensors are those of a model of this configuration, which is not quantized."""
        self._check_types()
        self._check_names(config)
        if config.tied_embeddings:
            self.check_tied(f"{ARCHITECTURES[config.architecture].tensors.embedding[0]}.weight")
        expected_shapes = config.tensor_shapes
        for name, tensor in self.tensors.items():
            expected = expected_shapes.get(name)
            if expected not in (None, tensor.shape):
                raise UserError(
                    f"{name} has the shape {_by(tensor.shape)} in the model's files, by {CONFIG_FILE} it has "
                    f"{_by(expected)}",
                    where=f"field model: {self.folder}",
                    fix=f"correct {_fields_of(name)} in {CONFIG_FILE}, or get it and the weights of one save",
                )

    def _check_types(self) -> None:
        for name, tensor in self.tensors.items():
            if name.endswith(_BUFFERS):
                continue
            method = next((method for method, form in _QUANTIZED.items() if form.search(name)), None)
            if method is None and tensor.dtype not in _PLAIN:
                method = _METHODS.get(tensor.dtype.partition("_")[0], f"type {tensor.dtype}")
            if method == _ADAPTER:
                raise UserError(
                    f"the model's files hold an adapter ({_ADAPTER}): {name}",
                    where=f"field model: {self.folder}",
                    fix="merge it into its base model (merge_and_unload of PEFT), save that, and name the result",
                )
            if method is not None:
                raise UserError(
                    f"the model is quantized already ({method}): its files hold {name} of type {tensor.dtype}",
                    where=f"field model: {self.folder}",
                    fix="name the unquantized model that it was made from",
                )

    def _check_names(self, config: ModelConfig) -> None:
        """transformers leaves out a tensor that the configuration does not speak of, such as a bias without
        ``attention_bias``, and the model answers a little worse than it should.
        """
        known = config.tensor_shapes.keys()
        lost = known - self.tensors.keys() - ({OUTPUT_LAYER} if config.tied_embeddings else set())
        if lost == {OUTPUT_LAYER}:
            raise UserError(
                f"the model's files lack the output layer {OUTPUT_LAYER}, and {CONFIG_FILE} does not tie it to the "
                "embedding",
                where=f"field model: {self.folder}",
                fix=f"set tie_word_embeddings to true in {CONFIG_FILE} if the model was trained so, else save it whole",
            )
        if lost and (prefix := self._other_prefix(min(lost - {OUTPUT_LAYER}))):
            raise UserError(
                f"the names of the model's weights begin with {prefix[0]!r} in place of {prefix[1]!r}",
                where=f"field model: {self.folder}",
                fix="save the model for text generation itself (AutoModelForCausalLM), without what wraps it",
            )
        if lost:
            raise UserError(
                f"the model's files lack {len(lost)} weights, {min(lost)} for instance",
                where=f"field model: {self.folder}",
                fix="download it again",
            )
        if unused := sorted(name for name in self.tensors.keys() - known if not name.endswith(_BUFFERS)):
            raise UserError(
                f"the model's files hold {len(unused)} tensors that {CONFIG_FILE} does not speak of, "
                f"{unused[0]} for instance: without them it would be another model",
                where=f"field model: {self.folder}",
                fix=f"get {CONFIG_FILE} and the weights of one save{_about_bias(unused[0], config.architecture)}",
            )

    def _other_prefix(self, lost: str) -> tuple[str, str] | None:
        """The beginnings of a tensor's name, as it is here and as it should be, if these are all that differs."""
        bare = lost.removeprefix("model.")
        found = next((name for name in sorted(self.tensors) if f".{name}".endswith(f".{bare}")), None)
        return None if found is None else (found.removesuffix(bare), lost.removesuffix(bare))

    def check_tied(self, embedding: str) -> None:
        """Raises `UserError` if there is an output layer other than the ``embedding``, which would take its place."""
        if OUTPUT_LAYER in self.tensors and self._sample(OUTPUT_LAYER) != self._sample(embedding):
            raise UserError(
                f"the model's files hold an {OUTPUT_LAYER} of its own, and {CONFIG_FILE} ties it to {embedding}",
                where=f"field model: {self.folder}",
                fix=f"set tie_word_embeddings to false in {CONFIG_FILE} if the model was trained so, else remove "
                f"{OUTPUT_LAYER} from its files",
            )

    def _sample(self, name: str) -> tuple[str, list[bytes]]:
        """The type of a tensor, and bytes of it from all over: two that were trained apart differ everywhere."""
        tensor = self.tensors[name]
        with open_regular(self.folder / tensor.file) as file:
            length = int.from_bytes(file.read(8), "little")
            start, end = parse_json(file.read(length))[name]["data_offsets"]
            pieces = []
            for number in range(_SAMPLES):
                file.seek(8 + length + start + (end - start) * number // _SAMPLES)
                pieces.append(file.read(min(_SAMPLE_BYTES, (end - start) // _SAMPLES)))
        return tensor.dtype, pieces


def _fields_of(name: str) -> str:
    """The fields of ``config.json`` that the shape of a tensor follows from."""
    if ".self_attn." in name:
        return "num_attention_heads, num_key_value_heads, head_dim or hidden_size"
    if ".mlp." in name:
        return "intermediate_size or hidden_size"
    return "hidden_size" if "norm" in name else "vocab_size or hidden_size"


def _about_bias(name: str, architecture: str) -> str:
    if not re.search(r"\.(self_attn|mlp)\..*\.bias$", name):
        return ""
    fields = sorted(ARCHITECTURES[architecture].biases)
    return f"; biases need {' or '.join(fields)} in it" if fields else f"; a {architecture} has no such bias"


def _by(shape: tuple[int, ...] | None) -> str:
    return " x ".join(map(str, shape or ())) or "of a single number"


def _files(folder: Path) -> dict[str, frozenset[str]]:
    """The names of the weights' files, each with the tensors that the index promises."""
    index = folder / INDEX_FILE
    if index.exists() and not (folder / WEIGHTS_FILE).exists():
        return promised_tensors(read_file(index), f"field model: {index}")
    return {WEIGHTS_FILE: frozenset()}


def promised_tensors(index: str | bytes, where: str) -> dict[str, frozenset[str]]:
    """The names of the tensors in each shard, by the JSON of an index.

    Raises:
        UserError: the index cannot be read, or names a shard that would not lie beside it.
    """
    shards: dict[str, set[str]] = defaultdict(set)
    try:
        for tensor, file in _weight_map(parse_json(index)).items():
            shards[_shard(file)].add(tensor)
    except ValueError as error:
        raise UserError(f"{INDEX_FILE} cannot be read: {error}", where=where, fix="repair the model's index") from error
    return {file: frozenset(shards[file]) for file in sorted(shards)}


def _weight_map(index: Any) -> dict[str, Any]:  # noqa: ANN401 - any JSON
    found = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(found, dict):
        raise ValueError("it has no object weight_map")
    if not isinstance(index.get("metadata"), dict):
        raise ValueError("it has no object metadata, which transformers asks for, if only an empty one")
    return found


def _shard(file: object) -> str:
    """The name of a shard: of a file beside the index, and nothing that a terminal or a log would obey."""
    if not isinstance(file, str) or "/" in file or "\\" in file or not file.isprintable() or len(file) > 255:
        raise ValueError(f"{str(file)[:80]!r} is not a path inside the model's directory itself")
    if not file.endswith(".safetensors"):
        raise ValueError(f"{file!r} is not a safetensors file")
    return file


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file whose header matches its size; UserError for any other file."""
    try:
        _check_header(path)
        with safe_open(path, framework="np") as file:
            _check_framework(file.metadata())
            parts = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 - it is no dictionary
            found = {name: Tensor(part.get_dtype(), tuple(part.get_shape()), path.name) for name, part in parts.items()}
            _check_shapes(found)
    except FileNotFoundError as error:
        raise UserError(
            f"{path.name} is missing",
            where=f"field model: {path}",
            fix="use a model with safetensors weights, completely downloaded",
        ) from error
    except OSError as error:
        raise bad_file(path, error.strerror or str(error)) from error
    except (ValueError, SafetensorError) as error:
        raise UserError(
            f"{path.name} is not a valid safetensors file: {error}",
            where=f"field model: {path}",
            fix="get the file again from where it was made, or save the model again",
        ) from error
    return found


def _check_header(path: Path) -> None:
    """The library would read up to 100 MB of JSON, wait for a FIFO, and map an empty file."""
    with open_regular(path) as file:
        start = file.read(len(LFS_POINTER))
    check_no_pointer(path, start)
    start = start[:8]
    length = int.from_bytes(start, "little")
    if len(start) < 8 or length > Limit.HEADER:
        raise ValueError(f"its header would have {length:,} bytes, of at most {Limit.HEADER:,}")


def _check_framework(metadata: Mapping[str, str] | None) -> None:
    """transformers reads a file that says nothing, and of those that say something the ones for PyTorch."""
    if metadata is not None and metadata.get("format") not in _FRAMEWORKS:
        raise ValueError(
            f"its metadata have the format {metadata.get('format')}, and transformers needs pt: write it with "
            'save_file(tensors, path, metadata={"format": "pt"})'
        )


def _check_shapes(tensors: dict[str, Tensor]) -> None:
    for name, tensor in tensors.items():
        if (found := len(tensor.shape)) > _MAX_DIMENSIONS:
            raise ValueError(f"the tensor {name[:80]!r} has {found} dimensions, of at most {_MAX_DIMENSIONS}")
