"""The kinds of artifacts, and the names that an artifact can have."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from pydantic import Field


class Kind(StrEnum):
    """A kind of artifact, by the name of its directory in the store. A kind comes after those that it is made from."""

    MODEL = "models"
    DATASET = "datasets"
    ORIGINAL = "originals"
    CHECKPOINT = "checkpoints"
    ENGINE = "engines"
    REPOSITORY = "repositories"


NAME_PATTERN = r"^[^./\x00][^/\x00]*$"
"""One element of a path, and not a hidden one."""

ArtifactName = Annotated[str, Field(pattern=NAME_PATTERN, max_length=255)]
