# ruff: noqa: TID253
"""Random two-layer decoder models, in the openvino environment: to be calibrated, to be released, or to be served.

``python -m tests.support.tiny_models {plain,releasable,served} DIR`` makes one. It takes seconds.
"""

from __future__ import annotations

import argparse
import json
import shutil
import string
from itertools import islice, product
from pathlib import Path
from pydoc_data.topics import topics
from tempfile import TemporaryDirectory
from typing import Any

import torch
import transformers
from safetensors.torch import load_file, save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

GROUP_SIZE = 16
VARIANTS: dict[str, dict[str, Any]] = {
    "llama": {"architecture": "LlamaForCausalLM"},
    "llama with biases": {"architecture": "LlamaForCausalLM", "attention_bias": True, "mlp_bias": True},
    "mistral": {"architecture": "MistralForCausalLM"},
    "qwen2": {"architecture": "Qwen2ForCausalLM"},
}
_WINDOW = 32
"""Shorter than the texts that the tests score."""
_GEMMA: dict[str, Any] = {
    "head_dim": 16,
    "query_pre_attn_scalar": 24,
    "sliding_window": _WINDOW,
    "layer_types": ["sliding_attention", "full_attention"],
    "pad_token_id": 0,
    "rms_norm_eps": 1e-6,
}
FURTHER: dict[str, dict[str, Any]] = {
    "qwen3": {"architecture": "Qwen3ForCausalLM", "head_dim": 32},
    "mistral with a window": {"architecture": "MistralForCausalLM", "sliding_window": _WINDOW},
    "phi3 with a window": {"architecture": "Phi3ForCausalLM", "sliding_window": _WINDOW, "pad_token_id": 0},
    "smollm3": {"architecture": "SmolLM3ForCausalLM", "no_rope_layers": [1, 0], "pad_token_id": 0},
    "granite": {
        "architecture": "GraniteForCausalLM",
        "embedding_multiplier": 12.0,
        "attention_multiplier": 0.015625,
        "residual_multiplier": 0.22,
        "logits_scaling": 8.0,
    },
    "olmo2": {"architecture": "Olmo2ForCausalLM"},
    "gemma2": {
        "architecture": "Gemma2ForCausalLM",
        "final_logit_softcapping": 3.0,
        "attn_logit_softcapping": 50.0,
        **_GEMMA,
    },
    "gemma3": {"architecture": "Gemma3ForCausalLM", "rope_local_base_freq": 2000.0, **_GEMMA},
    "qwen3 with yarn": {
        "architecture": "Qwen3ForCausalLM",
        "head_dim": 16,
        "max_position_embeddings": 64,
        "rope_scaling": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64},
    },
}
"""Each other architecture, with what it has that a Llama has not."""
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
# The byte-level alphabet writes a space so.
SPOKEN = string.ascii_letters + string.digits + ",.Ġ"

END, START, STOP = "<|endoftext|>", "<|im_start|>", "<|im_end|>"

_TEXTS = [*list(topics.values())[:40], "naïve café — “quoted” 日本語 😀 "]
_CHAT = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{{ '<|im_start|>assistant\n' }}"
)


def save_model(
    folder: Path, architecture: str = "LlamaForCausalLM", random_norms: bool = False, **changes: Any
) -> Path:
    """A Hugging Face model directory as transformers 4 writes it, in float32, with its tokenizer."""
    torch.manual_seed(0)
    model_class = getattr(transformers, architecture)
    config = model_class.config_class(**DIMENSIONS | {"architectures": [architecture]} | changes)
    model = model_class(config)
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter, std=0.1)
        elif name.endswith("norm.weight") and random_norms:
            parameter.data += torch.empty_like(parameter).uniform_(-0.5, 0.5)
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


def save_releasable(folder: Path) -> None:
    """A model directory that a request's defaults fit, and that passes the gates on any host.

    Its answers are letters, digits and marks, and never end: no gate looks at half a character, nor at an end that is
    nearly as probable as something else.
    """
    save_model(folder, intermediate_size=128, max_position_embeddings=2048)
    tensors = weights(folder)
    head = tensors["lm_head.weight"]
    spoken = AutoTokenizer.from_pretrained(folder).convert_tokens_to_ids(list(SPOKEN))
    silent = torch.ones(len(head), dtype=torch.bool).index_fill(0, torch.tensor(spoken), False)
    head[silent] = 0  # of so many logits, the largest is above this
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    for file in folder.iterdir():
        file.chmod(0o644)


def byte_level() -> Tokenizer:
    """As GPT-2's, Llama 3's or SmolLM's: characters may be split into several byte tokens."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=1000, special_tokens=[END, START, STOP], initial_alphabet=alphabet)
    tokenizer.train_from_iterator(_TEXTS, trainer)
    return tokenizer


def sentencepiece() -> Tokenizer:
    """As Llama 2's: the first token's leading space is dropped, rare characters are tokens of one byte each."""
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    specials = ["<unk>", END, *(f"<0x{byte:02X}>" for byte in range(256))]
    trainer = trainers.BpeTrainer(vocab_size=1000, special_tokens=[END], limit_alphabet=100)
    tokenizer.train_from_iterator([text[:500] for text in _TEXTS[:20]], trainer)
    vocabulary = [*specials, *(token for token in tokenizer.get_vocab() if token not in specials)]
    merges = [tuple(merge) for merge in json.loads(tokenizer.to_str())["model"]["merges"]]
    tokenizer.model = models.BPE(
        vocab={token: number for number, token in enumerate(vocabulary)},
        merges=merges,
        byte_fallback=True,
        unk_token="<unk>",
    )
    tokenizer.add_special_tokens([END])
    return tokenizer


def write_served_tokenizer(path: Path) -> None:
    """A byte-level tokenizer with a chat template."""
    fast = PreTrainedTokenizerFast(tokenizer_object=byte_level(), eos_token=END)
    fast.chat_template = _CHAT
    fast.save_pretrained(path)


def write_large_tokenizer(path: Path, vocab_size: int) -> None:
    """A byte-level tokenizer whose vocabulary is as large as those of the large models."""
    letters = "abcdefghijklmnopqrstuvwxyz"
    made = (start + "".join(word) for n in (2, 3, 4) for word in product(letters, repeat=n) for start in ("", "\u0120"))
    tokens = [*sorted(pre_tokenizers.ByteLevel.alphabet()), *islice(made, vocab_size - 257)]
    tokenizer = Tokenizer(models.BPE(vocab={token: number for number, token in enumerate(tokens)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=END).save_pretrained(path)


def write_engine(path: Path) -> None:
    """A random Llama of two layers as an OpenVINO IR."""
    from optimum.intel import OVModelForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=1000,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
    )
    model = LlamaForCausalLM(config)
    for parameter in model.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.3)
    with TemporaryDirectory() as source:
        model.save_pretrained(source)
        OVModelForCausalLM.from_pretrained(source, export=True, compile=False).save_pretrained(path)


def write_served(path: Path) -> None:
    """A model to be served: ``engine`` and ``tokenizer`` in a folder, both whole or none."""
    draft = path.with_name(f"{path.name}.partial")
    shutil.rmtree(draft, ignore_errors=True)
    write_served_tokenizer(draft / "tokenizer")
    write_engine(draft / "engine")
    draft.rename(path)


if __name__ == "__main__":
    makers = {"plain": save_model, "releasable": save_releasable, "served": write_served}
    parser = argparse.ArgumentParser()
    parser.add_argument("kind", choices=makers)
    parser.add_argument("folder", type=Path)
    options = parser.parse_args()
    makers[options.kind](options.folder)
