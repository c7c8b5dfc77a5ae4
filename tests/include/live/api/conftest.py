"""Tokenizers of every kind, as directories of models."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

END, START, STOP, TOOL, HEADER = "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<tool_call>", "<|plain|>"
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}"
    "{% for c in m.tool_calls or [] %}<tool_call>{{ c.function | tojson }}{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if tools %}{{ tools | tojson }}{% endif %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
TEXTS = [
    "Hello, world! How do I count to nine? naïve café — 日本語 😀",
    "the quick brown fox jumps over the lazy dog",
] * 9


def byte_level() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=[END, START, STOP], initial_alphabet=alphabet)
    tokenizer.train_from_iterator(TEXTS, trainer)
    return tokenizer


def metaspace() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    pieces = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    tokenizer.decoder = decoders.Sequence(pieces)
    tokens = ["<unk>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", *"Hello,▁world!How", "▁H"]
    vocabulary = {token: number for number, token in enumerate(dict.fromkeys(tokens))}
    tokenizer.model = models.BPE(vocabulary, [("▁", "H")], byte_fallback=True, unk_token="<unk>", fuse_unk=True)
    tokenizer.add_special_tokens(["<unk>"])
    return tokenizer


def unigram() -> Tokenizer:
    """Its vocabulary has the end token as an ordinary piece, which a text may be divided into."""
    letters = sorted({character for text in TEXTS for character in text.replace(" ", "▁")} | set("<|im_>/"))
    pieces = [("<unk>", 0.0), (STOP, -1.0), *((letter, -5.0) for letter in letters)]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=0, byte_fallback=False))
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    return tokenizer


KINDS: dict[str, Callable[[], Tokenizer]] = {"byte level": byte_level, "metaspace": metaspace, "unigram": unigram}


def write(folder: Path, tokenizer: Tokenizer, **settings: Any) -> Path:
    """A model's directory; a text begins with the end token, and some tokens are not special."""
    tokenizer.add_special_tokens([END, START, AddedToken(STOP, normalized=True)])
    tokenizer.add_tokens([AddedToken(TOOL), AddedToken(HEADER), AddedToken("  ", normalized=False)])
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{END} $A", special_tokens=[(END, tokenizer.token_to_id(END))]
    )
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    named = {"eos_token": STOP, "bos_token": END, "chat_template": TEMPLATE}
    fields = {name: value for name, value in (named | settings).items() if value is not None}
    (folder / "tokenizer_config.json").write_text(json.dumps(fields))
    return folder


@pytest.fixture(scope="session", params=KINDS, ids=str)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model's directory, one of each kind of tokenizer."""
    return write(tmp_path_factory.mktemp("model"), KINDS[request.param]())


@pytest.fixture(scope="session")
def byte_level_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model's directory with a tokenizer that knows every text."""
    return write(tmp_path_factory.mktemp("model"), byte_level())
