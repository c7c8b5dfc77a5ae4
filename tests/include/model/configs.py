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
QWEN3_0_6B = {
    "architectures": ["Qwen3ForCausalLM"],
    "hidden_size": 1024,
    "intermediate_size": 3072,
    "num_hidden_layers": 28,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "vocab_size": 151936,
    "max_position_embeddings": 40960,
    "rope_theta": 1000000,
    "tie_word_embeddings": True,
    "use_sliding_window": False,
    "sliding_window": None,
    "torch_dtype": "bfloat16",
}
PHI_3_MINI_4K = {
    "architectures": ["Phi3ForCausalLM"],
    "hidden_size": 3072,
    "intermediate_size": 8192,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "vocab_size": 32064,
    "max_position_embeddings": 4096,
    "original_max_position_embeddings": 4096,
    "rope_scaling": None,
    "sliding_window": 2047,
    "attention_bias": False,
    "torch_dtype": "bfloat16",
}
PHI_4 = {
    "architectures": ["Phi3ForCausalLM"],
    "hidden_size": 5120,
    "intermediate_size": 17920,
    "num_hidden_layers": 40,
    "num_attention_heads": 40,
    "num_key_value_heads": 10,
    "vocab_size": 100352,
    "max_position_embeddings": 16384,
    "rope_theta": 250000,
    "sliding_window": None,
    "torch_dtype": "bfloat16",
}
GRANITE_3_1_2B = {
    "architectures": ["GraniteForCausalLM"],
    "hidden_size": 2048,
    "intermediate_size": 8192,
    "num_hidden_layers": 40,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 49155,
    "max_position_embeddings": 131072,
    "rope_theta": 5000000.0,
    "tie_word_embeddings": True,
    "torch_dtype": "bfloat16",
}
SMOLLM3_3B = {
    "architectures": ["SmolLM3ForCausalLM"],
    "hidden_size": 2048,
    "intermediate_size": 11008,
    "num_hidden_layers": 36,
    "num_attention_heads": 16,
    "num_key_value_heads": 4,
    "vocab_size": 128256,
    "max_position_embeddings": 65536,
    "rope_theta": 5000000.0,
    "torch_dtype": "bfloat16",
}
OLMO_2_1B = {
    "architectures": ["Olmo2ForCausalLM"],
    "hidden_size": 2048,
    "intermediate_size": 8192,
    "num_hidden_layers": 16,
    "num_attention_heads": 16,
    "num_key_value_heads": 16,
    "vocab_size": 100352,
    "max_position_embeddings": 4096,
    "rope_theta": 500000,
    "tie_word_embeddings": False,
    "torch_dtype": "float32",
}
GEMMA_2_2B = {
    "architectures": ["Gemma2ForCausalLM"],
    "hidden_size": 2304,
    "intermediate_size": 9216,
    "num_hidden_layers": 26,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 256,
    "vocab_size": 256000,
    "max_position_embeddings": 8192,
    "sliding_window": 4096,
    "torch_dtype": "bfloat16",
}
GEMMA_3_1B = {
    "architectures": ["Gemma3ForCausalLM"],
    "hidden_size": 1152,
    "intermediate_size": 6912,
    "num_hidden_layers": 26,
    "num_attention_heads": 4,
    "num_key_value_heads": 1,
    "head_dim": 256,
    "vocab_size": 262144,
    "max_position_embeddings": 32768,
    "rope_theta": 1000000,
    "rope_local_base_freq": 10000,
    "sliding_window": 512,
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
    "rotary embedding for each kind of layer": {
        "rope_parameters": {"full_attention": {"rope_theta": 1e6}, "sliding_attention": {"rope_theta": 1e4}}
    },
    "rotary embedding of a part": {"partial_rotary_factor": 0.75},
    "group size": {"hidden_size": 96},
    "group size of the MLP": {"intermediate_size": 144},
    "few positions": {"max_position_embeddings": 32},
}
