"""A model's ``tokenizer_config.json`` and chat template, as transformers 4 and 5 write them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from include.model.files import CHAT_TEMPLATE_FILE, TOKENIZER_CONFIG_FILE

_NAMED = ("bos_token", "eos_token", "unk_token", "pad_token", "chat_template", "model_max_length")


@dataclass(frozen=True)
class TokenizerFacts:
    """A tokenizer's named tokens, chat template and length limit, and its further special tokens."""

    of_transformers_5: bool
    named: Mapping[str, Any]
    extra_special_tokens: tuple[str, ...]

    @classmethod
    def read(cls, folder: Path) -> TokenizerFacts:
        """The facts of the model in ``folder``; ValueError, KeyError or TypeError for a file that is damaged.

        Version 5 has a class that 4.57 does not know, and lists extra special tokens where 4.57 names them.
        """
        file, template = folder / TOKENIZER_CONFIG_FILE, folder / CHAT_TEMPLATE_FILE
        settings: dict[str, Any] = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
        extra = settings.get("extra_special_tokens") or []
        named = {name: _content(settings[name]) for name in _NAMED if settings.get(name) is not None}
        if template.is_file():
            named["chat_template"] = template.read_text(encoding="utf-8")
        listed = isinstance(settings.get("extra_special_tokens"), list)
        return cls(
            of_transformers_5=settings.get("tokenizer_class") == "TokenizersBackend" or listed,
            named=named,
            extra_special_tokens=tuple(_content(token) for token in extra) if listed else (),
        )


def _content(token: Any) -> Any:  # noqa: ANN401
    """A token is written as its text or, with its properties, as an object."""
    return token["content"] if isinstance(token, dict) else token
