"""A tiny random Llama with real tokenizers, to be served. ``python tiny.py OUT`` writes OUT/{engine,tokenizer}."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from pydoc_data.topics import topics
from tempfile import TemporaryDirectory

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

END, START, STOP = "<|endoftext|>", "<|im_start|>", "<|im_end|>"

_TEXTS = [*list(topics.values())[:40], "naïve café — “quoted” 日本語 😀 "]
_CHAT = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{{ '<|im_start|>assistant\n' }}"
)


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


def write_tokenizer(path: Path) -> None:
    """A byte-level tokenizer with a chat template."""
    from transformers import PreTrainedTokenizerFast

    fast = PreTrainedTokenizerFast(tokenizer_object=byte_level(), eos_token=END)
    fast.chat_template = _CHAT
    fast.save_pretrained(path)


def write_engine(path: Path) -> None:
    """A random Llama of two layers as an OpenVINO IR."""
    import torch
    from optimum.intel import OVModelForCausalLM
    from transformers import LlamaConfig, LlamaForCausalLM

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
    for weights in model.parameters():
        if weights.ndim > 1:
            torch.nn.init.normal_(weights, std=0.3)
    with TemporaryDirectory() as source:
        model.save_pretrained(source)
        OVModelForCausalLM.from_pretrained(source, export=True, compile=False).save_pretrained(path)


def write(path: Path) -> None:
    """Both, whole or not at all."""
    draft = path.with_name(f"{path.name}.partial")
    shutil.rmtree(draft, ignore_errors=True)
    write_tokenizer(draft / "tokenizer")
    write_engine(draft / "engine")
    draft.rename(path)


if __name__ == "__main__":
    write(Path(sys.argv[1]))
