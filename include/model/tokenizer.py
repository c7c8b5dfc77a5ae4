"""A model's ``tokenizer_config.json`` and chat template, as transformers 4 and 5 write them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StrictStr, ValidationError

from include.model.files import (
    CHAT_TEMPLATE_FILE,
    TOKENIZER_CONFIG_FILE,
    bad_file,
    named_templates,
    read_object,
    read_text,
)

DEFAULT_TEMPLATE = "default"
_SPECIAL = ("bos_token", "eos_token", "unk_token", "pad_token")


def _content(token: Any) -> Any:  # noqa: ANN401
    """A token is written as its text or, with its properties, as an object."""
    return token.get("content") if isinstance(token, dict) else token


_Token = Annotated[StrictStr, BeforeValidator(_content)]


class _Template(BaseModel):
    """One of several chat templates."""

    name: StrictStr
    template: StrictStr


class _Named(BaseModel):
    """The fields that name a token, the chat template and the length limit."""

    model_config = ConfigDict(protected_namespaces=())

    bos_token: _Token | None = None
    eos_token: _Token | None = None
    unk_token: _Token | None = None
    pad_token: _Token | None = None
    chat_template: StrictStr | list[_Template] | None = None
    # transformers writes 10**30 for no limit.
    model_max_length: Annotated[int | float, Field(gt=0, le=1e31)] | None = None


class _Settings(_Named):
    tokenizer_class: StrictStr | None = None
    auto_map: Any = None
    added_tokens_decoder: dict[Annotated[str, Field(pattern=r"^\d{1,9}$")], _Token] | None = None
    extra_special_tokens: list[_Token] | dict[str, _Token] | None = None


@dataclass(frozen=True)
class TokenizerFacts:
    """A tokenizer's named tokens, chat template and length limit, and its further special tokens."""

    of_transformers_5: bool
    named: Mapping[str, Any]
    extra_special_tokens: tuple[str, ...]
    added: Mapping[str, str] = field(default_factory=dict)
    tokenizer_class: str | None = None
    has_code: bool = False

    @property
    def templates(self) -> dict[str, str]:
        """The chat templates by their names; a single one is the default."""
        found = self.named.get("chat_template") or []
        return {DEFAULT_TEMPLATE: found} if isinstance(found, str) else {one["name"]: one["template"] for one in found}

    @property
    def special(self) -> dict[str, str]:
        """The named tokens, as a chat template gets them."""
        return {name: self.named[name] for name in _SPECIAL if name in self.named}

    @classmethod
    def read(cls, folder: Path) -> TokenizerFacts:
        """The facts of the model in ``folder``; UserError for a file that is damaged.

        Version 5 has a class that 4.57 does not know, and lists extra special tokens where 4.57 names them.
        """
        file, template = folder / TOKENIZER_CONFIG_FILE, folder / CHAT_TEMPLATE_FILE
        try:
            settings = _Settings.model_validate(read_object(file) if file.exists() else {})
        except ValidationError as error:
            first = error.errors()[0]
            raise bad_file(file, f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from error
        named = settings.model_dump(include=set(_Named.model_fields), exclude_none=True)
        if template.exists():
            named["chat_template"] = read_text(template)
        if separate := named_templates(folder):
            given = named.get("chat_template") or []
            listed = [{"name": DEFAULT_TEMPLATE, "template": given}] if isinstance(given, str) else given
            separate_texts = [{"name": name, "template": read_text(path)} for name, path in separate.items()]
            named["chat_template"] = listed + separate_texts
        extra = settings.extra_special_tokens
        in_list = isinstance(extra, list)
        return cls(
            of_transformers_5=settings.tokenizer_class == "TokenizersBackend" or in_list,
            named=named,
            extra_special_tokens=tuple(extra or ()) if in_list else (),
            added=settings.added_tokens_decoder or {},
            tokenizer_class=settings.tokenizer_class,
            has_code=bool(settings.auto_map),
        )
