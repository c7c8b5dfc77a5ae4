"""The kinds of models that are refused by what their ``config.json`` says, each with the advice that helps."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from include.errors import UserError
from include.model.architectures import ARCHITECTURES

_EXPERTS = ("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts")
_PARTS = ("text_config", "llm_config", "language_config", "vision_config", "audio_config", "thinker_config")
_HEADS = re.compile(
    r"For(SequenceClassification|TokenClassification|QuestionAnswering|MaskedLM|Reward\w*)$|(?<!LMHead)Model$"
)


@dataclass(frozen=True)
class _Kind:
    """``holds`` gets the fields and the names of the architectures. ``always``: also of a supported architecture."""

    holds: Callable[[Mapping[str, Any], Sequence[str]], bool]
    what: str
    fix: str
    always: bool = False


def _any(pattern: re.Pattern[str], names: Sequence[str]) -> bool:
    return any(map(pattern.search, names))


_KINDS = (
    _Kind(
        lambda fields, _: fields.get("is_encoder_decoder") is True,
        "an encoder-decoder",
        "name a decoder-only model for text generation",
        always=True,
    ),
    _Kind(
        lambda fields, _: any(isinstance(fields.get(name), int) and fields[name] > 0 for name in _EXPERTS),
        "a mixture of experts",
        "name a dense model",
        always=True,
    ),
    _Kind(
        lambda fields, _: any(isinstance(fields.get(name), dict) for name in _PARTS),
        "a language model wrapped with others, for images or sound",
        "name a text model, or save the wrapper's language model alone as a model of its own",
    ),
    _Kind(
        lambda _, names: bool(names) and _any(_HEADS, names),
        "not a model that generates text: it has no output layer of a language model",
        "name the model for text generation (its architecture ends in ForCausalLM)",
    ),
    _Kind(
        lambda fields, _: bool(fields.get("auto_map")),
        "of a class with code of its own in the repository, which is never run",
        "name a model of a class that transformers has itself",
    ),
)


def check_kind(fields: Mapping[str, Any], names: Sequence[str], where: str) -> None:
    """Raises `UserError` where ``config.json`` shows why no release can be made; ``names`` are its architectures."""
    supported = any(name in ARCHITECTURES for name in names)
    for kind in _KINDS:
        if kind.holds(fields, names) and (kind.always or not supported):
            named = f" (architecture {' '.join(names)})" if names else ""
            raise UserError(
                f"{where}: the model is {kind.what}{named}, which is not supported",
                where="field model",
                fix=f"{kind.fix}; supported are {', '.join(ARCHITECTURES)}",
            )


def check_model_type(fields: Mapping[str, Any], architecture: str, where: str) -> None:
    """Raises `UserError` unless ``model_type``, by which transformers chooses, is that of the architecture."""
    own = architecture.removesuffix("ForCausalLM").lower()
    named = fields.get("model_type")
    if isinstance(named, str) and re.fullmatch(rf"{own}(_text)?", named.replace("-", "")):
        return
    raise UserError(
        'config.json has no "model_type"'
        if named is None
        else f"config.json has the model_type {str(named)[:80]!r}, which is not that of {architecture}",
        where=where,
        fix=f'write "model_type": "{own}" into config.json if the model is one, else name another model',
    )
