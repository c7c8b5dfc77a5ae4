"""Settings of one model beside each other, kept as a file for each run of DAG `compare_settings`."""

from __future__ import annotations

import math
from pathlib import Path

from pydantic import Field

from include.artifacts.pins import run_slug
from include.files import Damaged, Skip, find_record, ignore, write_atomic
from include.frozen import Frozen

NEAR = 1.01
"""Perplexities within a hundredth of the best one count as equal."""


class Row(Frozen):
    """One setting. Sizes are in bytes; ``tokens_per_s`` is by the number of clients, empty if it was not measured."""

    setting: str
    checkpoint: str = Field(description="The key of the artifact, which a release with this setting reuses.")
    perplexity_before: float
    perplexity_after: float
    checkpoint_bytes: int
    engine_bytes: int
    tokens_per_s: dict[int, float] = Field(default_factory=dict)
    note: str = Field(default="", description="Why the speed is not known.")

    @property
    def increase(self) -> float:
        """The rise of the perplexity, as a share of that before quantization."""
        return self.perplexity_after / self.perplexity_before - 1 if self.perplexity_before else math.nan


class SettingsComparison(Frozen):
    """The settings of one model, in the order of the request."""

    model: str
    target: str
    rows: tuple[Row, ...]

    @property
    def recommended(self) -> Row | None:
        """Of the settings whose perplexity is near the best one, that with the smallest engine; then the best one."""
        known = [row for row in self.rows if 1 <= row.perplexity_after < math.inf]
        if not known:
            return None
        best = min(row.perplexity_after for row in known)
        near = [row for row in known if row.perplexity_after <= best * NEAR]
        return min(near, key=lambda row: (row.engine_bytes, row.perplexity_after))

    @property
    def clients(self) -> list[int]:
        """The loads that were measured."""
        return sorted({number for row in self.rows for number in row.tokens_per_s})

    @property
    def advice(self) -> str:
        """The recommendation with its reason, as a sentence."""
        if self.recommended is None:
            return "No setting has a perplexity: none can be recommended."
        return (
            f"Recommended: {self.recommended.setting}, the smallest engine among the settings whose perplexity is "
            f"within {NEAR - 1:.0%} of the best one."
        )

    def lines(self) -> list[str]:
        """The table and the recommendation, for a log."""
        speeds = [f"tokens/s, {number} at once" for number in self.clients]
        head = ("setting", "perplexity", "increase", "checkpoint MB", "engine MB", *speeds)
        rows = [
            (
                row.setting,
                f"{row.perplexity_after:.3f}",
                f"{row.increase:+.1%}",
                f"{row.checkpoint_bytes / 1e6:.1f}",
                f"{row.engine_bytes / 1e6:.1f}",
                *(f"{row.tokens_per_s[n]:.1f}" if n in row.tokens_per_s else "not measured" for n in self.clients),
            )
            for row in self.rows
        ]
        widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
        table = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in (head, *rows)]
        notes = [f"{row.setting}: {row.note}" for row in self.rows if row.note]
        return [line.rstrip() for line in (*table, *notes, self.advice)]


def comparison_file(artifacts: Path, run_id: str) -> Path:
    """The place of a run's comparison in the store."""
    return artifacts / "comparisons" / f"{run_slug(run_id)}.json"


def write_comparison(artifacts: Path, run_id: str, made: SettingsComparison) -> None:
    """Writes the comparison of a run."""
    path = comparison_file(artifacts, run_id)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, made.model_dump_json(indent=1))


def read_comparison(artifacts: Path, run_id: str, skip: Skip = ignore) -> SettingsComparison | None:
    """The comparison of a run; None if it has none, or one that is damaged."""
    try:
        return find_record(comparison_file(artifacts, run_id), SettingsComparison)
    except Damaged as damage:
        skip(damage)
        return None
