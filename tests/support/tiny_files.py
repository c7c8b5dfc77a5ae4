"""Models of a few hundred bytes, with the structure of real ones."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path

CONFIG = {
    "architectures": ["LlamaForCausalLM"],
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


def safetensors(shapes: Mapping[str, tuple[int, ...]]) -> bytes:
    """A safetensors file of F16 tensors."""
    header, data = {}, b""
    for name, shape in shapes.items():
        content = name.encode().ljust(2 * math.prod(shape), b".")[: 2 * math.prod(shape)]
        header[name] = {"dtype": "F16", "shape": shape, "data_offsets": [len(data), len(data) + len(content)]}
        data += content
    text = json.dumps({"__metadata__": {"format": "pt"}} | header).encode()
    return len(text).to_bytes(8, "little") + text + data


def model(**changes: bytes) -> dict[str, bytes]:
    """The files of a model with one weights file."""
    return {
        "config.json": json.dumps(CONFIG).encode(),
        "generation_config.json": b"{}",
        "tokenizer.json": b'{"model": {}}',
        "tokenizer_config.json": b"{}",
        "model.safetensors": safetensors({"embed": (256, 64), "norm": (64,)}),
        **changes,
    }


def sharded_model() -> dict[str, bytes]:
    """The files of a model with two shards and their index."""
    shards = {
        "model-00001-of-00002.safetensors": safetensors({"embed": (256, 64)}),
        "model-00002-of-00002.safetensors": safetensors({"norm": (64,)}),
    }
    weight_map = {"embed": "model-00001-of-00002.safetensors", "norm": "model-00002-of-00002.safetensors"}
    files = model()
    del files["model.safetensors"]
    return files | shards | {"model.safetensors.index.json": json.dumps({"weight_map": weight_map}).encode()}


def write(files: Mapping[str, bytes], directory: Path) -> Path:
    """Writes ``files`` below ``directory``, which is made."""
    for name, content in files.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return directory
