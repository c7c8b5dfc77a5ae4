"""Pins: which artifacts each run uses, as files, so that pruning leaves them alone.

``pins/<run>/<kind>/<name>`` is an empty file for each artifact that a run has looked for, and ``pins/<run>.run`` holds
the run's id. A pin is set before its artifact is looked at, and pruning looks at pins only while it holds that
artifact's lock: so a run finds an artifact and keeps it, or does not find it. The run's teardown drops its pins.
Pins whose run cannot be told, because its file is damaged, hold their artifacts until somebody removes them.
"""

from __future__ import annotations

import glob
import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from include import reading
from include.artifacts.kind import Kind
from include.files import Skip, damaged, disk_errors, ignore, remove, write_atomic

_LONGEST_ID = 4096


def run_slug(run_id: str) -> str:
    """A run's name in paths: readable, and different for different runs."""
    readable = re.sub(r"[^A-Za-z0-9.-]", "_", run_id)[:60]
    return f"{readable}-{hashlib.sha256(run_id.encode()).hexdigest()[:8]}"


@dataclass(frozen=True)
class Pins:
    """The pins of all runs, below ``root``; ``skip`` gets the records of runs that are damaged."""

    root: Path
    skip: Skip = ignore

    def add(self, run_id: str, kind: Kind, name: str) -> None:
        """Pins an artifact, which need not exist yet, for a run."""
        if self._run_of(self._record(run_id)) != run_id:
            write_atomic(self._record(run_id), run_id)
        pin = self.root / run_slug(run_id) / kind / name
        with disk_errors(pin):
            pin.parent.mkdir(parents=True, exist_ok=True)
            pin.touch()

    def drop(self, run_id: str) -> None:
        """Removes all pins of a run, which is over."""
        remove(self.root / run_slug(run_id))
        remove(self._record(run_id))

    def drop_stale(self, is_over: Callable[[str], bool]) -> list[str]:
        """Drops the pins of runs that ended without their teardown; returns the runs."""
        stale = [run for run in self.runs() if is_over(run)]
        for run in stale:
            self.drop(run)
        return stale

    def runs(self) -> list[str]:
        """The ids of all runs that hold pins."""
        return [run for path in sorted(self.root.glob("*.run")) if (run := self._run_of(path, self.skip))]

    def unknown(self) -> list[str]:
        """The names in paths of runs whose ids are damaged."""
        return [path.stem for path in self.root.glob("*.run") if not self._run_of(path)]

    def held_by(self, kind: Kind, name: str) -> str | None:
        """A run that needs that artifact, if there is one; its name in paths if its id is damaged."""
        for pin in self.root.glob(f"*/{kind}/{glob.escape(name)}"):
            slug = pin.parents[1].name
            return self._run_of(self.root / f"{slug}.run") or slug
        return None

    def of_model(self, slug: str) -> list[str]:
        """The runs that use a model, at whichever commit; a run has pinned it once it begins to pull it."""
        return [run for run in self.runs() if any((self.root / run_slug(run) / Kind.MODEL).glob(f"{slug}@*"))]

    def _run_of(self, path: Path, skip: Skip = ignore) -> str | None:
        """The run in a record, which has a name that follows from it."""
        try:
            run = reading.read_bytes(path, _LONGEST_ID, follow=False).decode()
        except FileNotFoundError:
            return None
        except (OSError, ValueError):
            run = ""
        if run_slug(run) == path.stem:
            return run
        skip(damaged(path, "it does not have the id of its run", "once no run is left, remove it with its directory"))
        return None

    def _record(self, run_id: str) -> Path:
        return self.root / f"{run_slug(run_id)}.run"
