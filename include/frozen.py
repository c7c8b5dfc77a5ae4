"""The base of models that do not change once they are made, and the types of fields that records share."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import PurePosixPath
from typing import Annotated

from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict


class Frozen(BaseModel):
    """Data that no holder can change."""

    model_config = ConfigDict(frozen=True)


def _in_utc(moment: datetime) -> datetime:
    try:
        return moment.astimezone(UTC)
    except OverflowError:
        raise ValueError(f"{moment} is beyond the calendar in UTC") from None


def inside(path: str) -> str:
    """The path; raises `ValueError` if it would leave the directory it is joined to."""
    parts = PurePosixPath(path).parts
    if not parts or path.startswith("/") or ".." in parts or "\\" in path or not path.isprintable():
        raise ValueError(f"{path!r} is not a path inside the source")
    return path


Moment = Annotated[AwareDatetime, AfterValidator(_in_utc)]
"""A time with its zone, in UTC."""

InsidePath = Annotated[str, AfterValidator(inside)]
"""A relative path that does not leave the directory it is joined to."""
