"""The model to be calibrated, judged by its config.json and file headers before any weight is loaded."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from include.model.check import check_model
from include.model.config import ModelConfig


@dataclass(frozen=True)
class SourceModel:
    """A Hugging Face model directory; ``weight_bytes`` is the size of its weights as stored."""

    folder: Path
    config: ModelConfig
    weight_bytes: int

    @classmethod
    def read(cls, folder: Path) -> SourceModel:
        """Reads ``folder``; raises `UserError` as `check_model`."""
        found = check_model(folder)
        return cls(folder, found.config, found.weight_bytes)
