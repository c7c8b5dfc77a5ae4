"""A model's tokenizer by its files: a form that can be read here, and tokens that the model knows."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from include.errors import UserError
from include.model.files import TOKENIZER_CONFIG_FILE, TOKENIZER_FILE, TOKENIZER_MODEL, bad_file, read_file
from include.model.tokenizer import TokenizerFacts

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_CONVERTED = re.compile(r"(Llama|CodeLlama|Gemma)Tokenizer(Fast)?|PreTrainedTokenizerFast")
"""The classes that `include.stages.calibrate` makes a tokenizer.json for, of a ``tokenizer.model``."""
_BYTE_PAIRS = re.compile(r"(GPT2|Qwen2)Tokenizer(Fast)?")
"""The classes that are made of ``vocab.json`` and ``merges.txt``."""
_TIKTOKEN = re.compile(rb"[A-Za-z0-9+/]+={0,2} [0-9]+\r?\n")
_SENTENCEPIECE = b"\x0a"
"""The tag of the first field of its protocol buffer, the pieces."""


def is_tiktoken(content: bytes) -> bool:
    """Whether a ``tokenizer.model`` is tiktoken's list of tokens: each in base64 and its rank, a line."""
    return _TIKTOKEN.match(content) is not None


def read_tokenizer(folder: Path) -> Tokenizer:
    """The ``tokenizer.json`` of a model; UserError where it is damaged."""
    from tokenizers import Tokenizer

    file = folder / TOKENIZER_FILE
    content = read_file(file)
    try:
        tokenizer = Tokenizer.from_buffer(content)
    except Exception as error:  # the library has no class of its own
        raise bad_file(file, str(error)) from error
    # Left in the file by training; transformers asks for neither.
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def check_tokenizer(folder: Path, facts: TokenizerFacts, vocab_size: int) -> None:
    """Raises `UserError` for a tokenizer that cannot be read here, or whose tokens the model does not know."""
    if (folder / TOKENIZER_FILE).exists():
        _check_tokens(folder, facts, vocab_size)
        return
    _check_beyond(folder, facts, {token: int(number) for number, token in facts.added.items()}, vocab_size)
    if facts.has_code:
        raise _refused(folder, "its tokenizer is made by code in the repository, which is never run")
    if facts.of_transformers_5:
        raise _refused(folder, f"its {TOKENIZER_CONFIG_FILE} is of transformers 5, which never saves without one")
    if (file := folder / TOKENIZER_MODEL).exists():
        content = read_file(file)
        if not content.startswith(_SENTENCEPIECE) and not is_tiktoken(content):
            raise bad_file(file, "it is neither a SentencePiece model nor tiktoken's list of tokens")
        _check_class(folder, facts, _CONVERTED)
    elif not (folder / "merges.txt").exists():
        raise _refused(folder, "its vocab.json lacks the merges.txt that belongs to it")
    else:
        _check_class(folder, facts, _BYTE_PAIRS)


def _check_tokens(folder: Path, facts: TokenizerFacts, vocab_size: int) -> None:
    tokenizer = read_tokenizer(folder)
    if (tokens := tokenizer.get_vocab_size(with_added_tokens=False)) > vocab_size:
        raise UserError(
            f"the tokenizer has {tokens} tokens, the model only {vocab_size}",
            where=f"field model: {folder / TOKENIZER_FILE}",
            fix="use the tokenizer that belongs to the model",
        )
    added = {token.content: number for number, token in tokenizer.get_added_tokens_decoder().items()}
    _check_beyond(folder, facts, added, vocab_size)
    end = facts.named.get("eos_token")
    if end is not None and tokenizer.token_to_id(end) is None and end not in facts.added.values():
        raise bad_file(folder / TOKENIZER_CONFIG_FILE, f"its eos_token {end!r} is no token of {TOKENIZER_FILE}")


def _check_beyond(folder: Path, facts: TokenizerFacts, added: Mapping[str, int], vocab_size: int) -> None:
    """A token that was added without a row for it in the weights is left out, unless prompts or answers need it."""
    needed = [facts.named.get(name) for name in ("bos_token", "eos_token", "unk_token")]
    templates = "".join(facts.templates.values())
    for token, number in added.items():
        if number >= vocab_size and (token in needed or token in templates):
            raise UserError(
                f"the token {token!r} of the tokenizer has the id {number}, the model has {vocab_size} tokens",
                where=f"field model: {folder}",
                fix="save the model with resized embeddings (resize_token_embeddings), or use its own tokenizer",
            )


def _check_class(folder: Path, facts: TokenizerFacts, known: re.Pattern[str]) -> None:
    if facts.tokenizer_class is not None and not known.fullmatch(facts.tokenizer_class):
        raise _refused(folder, f"no {TOKENIZER_FILE} can be made of a {facts.tokenizer_class}")


def _refused(folder: Path, why: str) -> UserError:
    return UserError(
        f"the model has no {TOKENIZER_FILE}, and {why}",
        where=f"field model: {folder}",
        fix=f"save its tokenizer with a {TOKENIZER_FILE} (AutoTokenizer.from_pretrained(...).save_pretrained(...)), "
        "or name a model that has one",
    )
