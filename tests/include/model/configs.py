"""The configurations of known models, and how to read them with changes."""

from __future__ import annotations

import json
from typing import Any

from include.model.config import ModelConfig

LLAMA2_7B = {
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "vocab_size": 32000,
    "max_position_embeddings": 4096,
    "torch_dtype": "float16",
}
SMOLLM2_135M = {
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "vocab_size": 49152,
    "max_position_embeddings": 8192,
    "rope_theta": 100000.0,
    "tie_word_embeddings": True,
    "dtype": "float16",
}
QWEN2_5_0_5B = {
    "architectures": ["Qwen2ForCausalLM"],
    "hidden_size": 896,
    "intermediate_size": 4864,
    "num_hidden_layers": 24,
    "num_attention_heads": 14,
    "num_key_value_heads": 2,
    "vocab_size": 151936,
    "max_position_embeddings": 32768,
    "rope_theta": 1000000.0,
    "tie_word_embeddings": True,
    "use_sliding_window": False,
    "sliding_window": 32768,
    "torch_dtype": "bfloat16",
}
MISTRAL_NEMO = {
    "architectures": ["MistralForCausalLM"],
    "hidden_size": 5120,
    "intermediate_size": 14336,
    "num_hidden_layers": 40,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "vocab_size": 131072,
    "max_position_embeddings": 131072,
    "rope_theta": 1000000.0,
    "sliding_window": None,
    "torch_dtype": "bfloat16",
}


def config(base: dict[str, Any], *without: str, **changes: object) -> ModelConfig:
    """``base`` less the fields ``without``, with ``changes``."""
    fields = {name: value for name, value in base.items() if name not in without} | changes
    return ModelConfig.parse(json.dumps(fields), where="org/model")


# A model of `tests.include.sources.tiny` with one of these changes is refused by its config.json alone.
BAD_CONFIGS: dict[str, dict[str, object]] = {
    "longrope": {"rope_scaling": {"rope_type": "longrope", "factor": 4.0}},
    "longrope under its old name": {"rope_scaling": {"type": "longrope", "factor": 4.0}},
    "su": {"rope_scaling": {"type": "su"}},
    "longrope of transformers 5": {"rope_parameters": {"rope_theta": 10000.0, "rope_type": "longrope"}},
    "rotary base": {"rope_parameters": {"rope_theta": "x"}},
    "rotary base of 0": {"rope_theta": 0},
    "rotary scaling that is no object": {"rope_scaling": "longrope"},
    "architecture": {"architectures": ["FalconForCausalLM"]},
    "no architecture": {"architectures": None},
    "no size": {"hidden_size": None},
    "size that is no number": {"intermediate_size": "wide"},
    "no heads": {"num_attention_heads": 0},
    "type": {"torch_dtype": "float8_e4m3fn"},
    "quantized already": {"quantization_config": {"quant_method": "awq"}},
    "sliding window of Mistral": {"architectures": ["MistralForCausalLM"], "sliding_window": 64},
    "sliding window of Qwen2": {
        "architectures": ["Qwen2ForCausalLM"],
        "use_sliding_window": True,
        "sliding_window": 64,
    },
    "group size": {"hidden_size": 96},
    "group size of the MLP": {"intermediate_size": 144},
    "few positions": {"max_position_embeddings": 32},
}
