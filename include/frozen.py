"""The base of models that do not change once they are made."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Frozen(BaseModel):
    """Data that no holder can change."""

    model_config = ConfigDict(frozen=True)
