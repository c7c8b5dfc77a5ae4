"""The tokens that end an answer, by a model's ``generation_config.json``, as transformers writes it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, StrictInt, ValidationError

from include.model.files import CONFIG_FILE, GENERATION_FILE, bad_file, read_object

_TokenId = Annotated[StrictInt, Field(ge=0, lt=2**31)]


class _Generation(BaseModel):
    model_config = ConfigDict(extra="ignore")

    eos_token_id: _TokenId | list[_TokenId] | None = None


def end_ids(folder: Path) -> tuple[int, ...]:
    """The ids of the tokens that end an answer, in the file's order; none if the file names none or is not there.

    Raises:
        UserError: the file is damaged, or an id is no whole number.
    """
    return _end_ids(folder / GENERATION_FILE)


def check_end_ids(folder: Path, vocab_size: int) -> bool:
    """Whether the model's own files name a token that ends an answer.

    Raises:
        UserError: an id is no whole number, or that of no token of the model.
    """
    found = False
    for file in (folder / GENERATION_FILE, folder / CONFIG_FILE):
        ids = _end_ids(file)
        if wrong := [token for token in ids if token >= vocab_size]:
            raise bad_file(file, f"its eos_token_id {wrong[0]} is beyond the {vocab_size} tokens of the model")
        found = found or bool(ids)
    return found


def _end_ids(file: Path) -> tuple[int, ...]:
    if not file.exists():
        return ()
    try:
        named = _Generation.model_validate(read_object(file)).eos_token_id
    except ValidationError as error:
        raise bad_file(
            file, "eos_token_id must be the id of a token, a whole number without quotes, or a list of ids"
        ) from error
    if named is None:
        return ()
    return tuple(dict.fromkeys(named if isinstance(named, list) else [named]))
