"""Models of a few hundred bytes, with the structure of real ones."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path

from include.model.config import ModelConfig

CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 256,
    "max_position_embeddings": 512,
    "rope_theta": 10000.0,
    "torch_dtype": "float16",
}


_READ = ModelConfig.parse(json.dumps(CONFIG), where="a tiny model")
SHAPES = dict(sorted(_READ.tensor_shapes.items()))
"""Of the tensors of `CONFIG`."""
TOKENIZER = json.dumps(
    {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [],
        "normalizer": None,
        "pre_tokenizer": {"type": "Split", "pattern": {"Regex": "."}, "behavior": "Isolated", "invert": False},
        "post_processor": None,
        "decoder": None,
        "model": {"type": "WordLevel", "vocab": {"<end>": 0, "word": 1}, "unk_token": "<end>"},
    }
).encode()


_BYTES = {"F16": 2, "BF16": 2, "F32": 4, "I32": 4, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1}


def safetensors(shapes: Mapping[str, tuple[int, ...]], dtypes: Mapping[str, str] | None = None) -> bytes:
    """A safetensors file of tensors, of type F16 unless ``dtypes`` has another."""
    header, data = {}, b""
    for name, shape in shapes.items():
        dtype = (dtypes or {}).get(name, "F16")
        size = _BYTES[dtype] * math.prod(shape)
        content = name.encode().ljust(size, b".")[:size]
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [len(data), len(data) + len(content)]}
        data += content
    text = json.dumps({"__metadata__": {"format": "pt"}} | header).encode()
    return len(text).to_bytes(8, "little") + text + data


def model(**changes: bytes) -> dict[str, bytes]:
    """The files of a model with one weights file."""
    return {
        "config.json": json.dumps(CONFIG).encode(),
        "generation_config.json": b'{"eos_token_id": 0}',
        "tokenizer.json": TOKENIZER,
        "tokenizer_config.json": b"{}",
        "model.safetensors": safetensors(SHAPES),
        **changes,
    }


def sharded_model() -> dict[str, bytes]:
    """The files of a model with two shards and their index."""
    shards, weight_map = {}, {}
    for file, first in (("model-00001-of-00002.safetensors", True), ("model-00002-of-00002.safetensors", False)):
        held = {name: shape for name, shape in SHAPES.items() if (name == min(SHAPES)) == first}
        shards[file] = safetensors(held)
        weight_map |= dict.fromkeys(held, file)
    files = model()
    del files["model.safetensors"]
    index = json.dumps({"metadata": {}, "weight_map": weight_map}).encode()
    return files | shards | {"model.safetensors.index.json": index}


def write(files: Mapping[str, bytes], directory: Path) -> Path:
    """Writes ``files`` below ``directory``, which is made."""
    for name, content in files.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return directory
