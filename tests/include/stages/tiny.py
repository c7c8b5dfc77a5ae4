# ruff: noqa: TID253
"""Random two-layer decoder models with a tokenizer of single bytes, made in less than a second."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import load_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

GROUP_SIZE = 16
VARIANTS: dict[str, dict[str, Any]] = {
    "llama": {"architecture": "LlamaForCausalLM"},
    "llama with biases": {"architecture": "LlamaForCausalLM", "attention_bias": True, "mlp_bias": True},
    "mistral": {"architecture": "MistralForCausalLM"},
    "qwen2": {"architecture": "Qwen2ForCausalLM"},
}
DIMENSIONS: dict[str, Any] = {
    "vocab_size": 320,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "rope_theta": 50000.0,
    # Large enough that a wrong weight shows in the logits.
    "initializer_range": 0.15,
    "bos_token_id": 256,
    "eos_token_id": 257,
    "architectures": ["LlamaForCausalLM"],
}


def save_model(folder: Path, architecture: str = "LlamaForCausalLM", **changes: Any) -> Path:
    """A Hugging Face model directory as transformers 4 writes it, in float32, with its tokenizer."""
    torch.manual_seed(0)
    model_class = getattr(transformers, architecture)
    config = model_class.config_class(**DIMENSIONS | {"architectures": [architecture]} | changes)
    model = model_class(config)
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter, std=0.1)
    model.save_pretrained(folder)
    save_tokenizer(folder)
    return folder


def save_tokenizer(folder: Path) -> None:
    """Bytes are tokens 0 to 255; every text starts with ``<s>``, as Llama's do."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={char: i for i, char in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken("<s>", special=True), AddedToken("</s>", special=True)])
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 256)])
    template = "<s>{% for message in messages %}[{{ message['content'] }}]{% endfor %}"
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", chat_template=template
    ).save_pretrained(folder)


def change_config(folder: Path, **changes: Any) -> None:
    """Rewrites entries of ``config.json``; None removes one."""
    path = folder / "config.json"
    fields = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({name: value for name, value in fields.items() if value is not None}))


def weights(folder: Path) -> dict[str, torch.Tensor]:
    """The tensors of ``model.safetensors``."""
    return load_file(folder / "model.safetensors")


def small_blocks(samples: int = 4, length: int = 32) -> torch.Tensor:
    """Token ids to calibrate on."""
    return torch.randint(0, 256, (samples, length), generator=torch.Generator().manual_seed(1))
