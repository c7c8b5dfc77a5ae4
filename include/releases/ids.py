"""The id of a release."""

from __future__ import annotations

import re
from typing import Self

from pydantic import Field

from include.frozen import Frozen

MODEL = r"[A-Za-z0-9][A-Za-z0-9_.-]*"
NUMBER = r"[1-9][0-9]{0,8}"


class ReleaseId(Frozen):
    """A release by its model and number. As text it is ``<model>/<n>``, the release's path below all releases."""

    model: str = Field(pattern=f"^{MODEL}$", max_length=255)
    number: int = Field(ge=1, lt=10**9)

    @classmethod
    def parse(cls, text: str) -> Self:
        """The id that a text such as ``org--name/3`` names; raises `ValueError` for any other text."""
        model, _, number = text.rpartition("/")
        if not re.fullmatch(NUMBER, number):
            raise ValueError(f"{number[:20]!r} is no number of a release")
        return cls(model=model, number=int(number))

    def __str__(self) -> str:
        return f"{self.model}/{self.number}"
