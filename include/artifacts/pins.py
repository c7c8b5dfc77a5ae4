"""Pins: which artifacts each run uses, as files, so that pruning leaves them alone.

``pins/<run>/<kind>/<name>`` is an empty file for each artifact that a run has looked for, and ``pins/<run>.run`` holds
the run's id. A pin is set before its artifact is looked at, and pruning looks at pins only while it holds that
artifact's lock: so a run finds an artifact and keeps it, or does not find it. The run's teardown drops its pins.
"""

from __future__ import annotations

import hashlib
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from include.artifacts.kind import Kind
from include.files import write_atomic


def run_slug(run_id: str) -> str:
    """A run's name in paths: readable, and different for different runs."""
    readable = re.sub(r"[^A-Za-z0-9.-]", "_", run_id)[:60]
    return f"{readable}-{hashlib.sha256(run_id.encode()).hexdigest()[:8]}"


@dataclass(frozen=True)
class Pins:
    """The pins of all runs, below ``root``."""

    root: Path

    def add(self, run_id: str, kind: Kind, name: str) -> None:
        """Pins an artifact, which need not exist yet, for a run."""
        if not self._record(run_id).exists():
            write_atomic(self._record(run_id), run_id)
        pin = self.root / run_slug(run_id) / kind / name
        pin.parent.mkdir(parents=True, exist_ok=True)
        pin.touch()

    def drop(self, run_id: str) -> None:
        """Removes all pins of a run, which is over."""
        shutil.rmtree(self.root / run_slug(run_id), ignore_errors=True)
        self._record(run_id).unlink(missing_ok=True)

    def drop_stale(self, is_over: Callable[[str], bool]) -> list[str]:
        """Drops the pins of runs that ended without their teardown; returns the runs."""
        stale = [run for run in self.runs() if is_over(run)]
        for run in stale:
            self.drop(run)
        return stale

    def runs(self) -> list[str]:
        """The ids of all runs that hold pins."""
        return [path.read_text() for path in sorted(self.root.glob("*.run"))]

    def held_by(self, kind: Kind, name: str) -> str | None:
        """A run that needs that artifact, if there is one."""
        return next((run for run in self.runs() if (self.root / run_slug(run) / kind / name).exists()), None)

    def of_model(self, slug: str) -> list[str]:
        """The runs that use a model, at whichever commit; a run has pinned it once it begins to pull it."""
        return [run for run in self.runs() if any((self.root / run_slug(run) / Kind.MODEL).glob(f"{slug}@*"))]

    def _record(self, run_id: str) -> Path:
        return self.root / f"{run_slug(run_id)}.run"
