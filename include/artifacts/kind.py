"""The kinds of artifacts."""

from __future__ import annotations

from enum import StrEnum


class Kind(StrEnum):
    """A kind of artifact, by the name of its directory in the store. A kind comes after those that it is made from."""

    MODEL = "models"
    DATASET = "datasets"
    CHECKPOINT = "checkpoints"
    ENGINE = "engines"
    REPOSITORY = "repositories"
