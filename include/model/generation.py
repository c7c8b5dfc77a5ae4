"""The tokens that end an answer, and those that none may have, by a ``generation_config.json`` of transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, TypeVar

from pydantic import BaseModel, Field, StrictInt, ValidationError

from include.model.files import CONFIG_FILE, GENERATION_FILE, bad_file, read_object

_TokenId = Annotated[StrictInt, Field(ge=0, lt=2**31)]


class _Ends(BaseModel):
    eos_token_id: _TokenId | list[_TokenId] | None = None


class _Suppressed(BaseModel):
    suppress_tokens: list[_TokenId] | None = None


_M = TypeVar("_M", bound=BaseModel)


def end_ids(folder: Path) -> tuple[int, ...]:
    """The ids of the tokens that end an answer, in the file's order; if it names none, those of ``config.json``.

    Raises:
        UserError: a file is damaged, or an id is no whole number.
    """
    return _ids(folder / GENERATION_FILE) or _ids(folder / CONFIG_FILE)


def check_end_ids(folder: Path, vocab_size: int) -> bool:
    """Whether the model's own files name a token that ends an answer.

    Raises:
        UserError: an id is no whole number, or that of no token of the model.
    """
    found = False
    for file in (folder / GENERATION_FILE, folder / CONFIG_FILE):
        ids = _ids(file)
        if wrong := [token for token in ids if token >= vocab_size]:
            raise bad_file(file, f"its eos_token_id {wrong[0]} is beyond the {vocab_size} tokens of the model")
        found = found or bool(ids)
    return found


def _ids(file: Path) -> tuple[int, ...]:
    named = _read(file, _Ends).eos_token_id
    if named is None:
        return ()
    return tuple(dict.fromkeys(named if isinstance(named, list) else [named]))


def suppressed_ids(folder: Path) -> tuple[int, ...]:
    """The ids that no answer may have: in a checkpoint, those below its ``vocab_size`` that stand for no token.

    Raises:
        UserError: as `end_ids`.
    """
    return tuple(_read(folder / GENERATION_FILE, _Suppressed).suppress_tokens or ())


def _read(file: Path, fields: type[_M]) -> _M:
    if not file.exists():
        return fields()
    try:
        return fields.model_validate(read_object(file))
    except ValidationError as error:
        field = error.errors()[0]["loc"][0]
        raise bad_file(file, f"{field} must be the id of a token, a whole number, or a list of ids") from error
