"""A visit to a GPU host: steps one after the other, each with its seconds and what was found, as JSON.

A step that fails keeps only those from running that need its result; when the visit's time is up, the rest is named
as not run.
"""

from __future__ import annotations

import json
import platform
import shutil
import subprocess
import time
import traceback
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from filelock import FileLock

from include.errors import HostError
from include.files import try_lock

FAILED: Any = object()
"""The result of a step that failed or did not run."""


class Unproved(Exception):
    """What a step was to prove is not so; the record gets what was found."""

    def __init__(self, found: dict[str, Any], why: str) -> None:
        super().__init__(why)
        self.found = found


def judged(found: dict[str, Any], **claims: bool) -> dict[str, Any]:
    """What was found, if every claim about it is true; raises `Unproved` with the names of those that are not."""
    if wrong := [name for name, holds in claims.items() if not holds]:
        raise Unproved(found, f"not so: {', '.join(wrong)}")
    return found


def alone(folder: Path) -> FileLock:
    """The lock of a data folder, for as long as the visit keeps it; raises `HostError` if another visit has it.

    A visit stops the engine, and the servers, that another one still uses.
    """
    if lock := try_lock(folder / "visit.lock"):
        return lock
    raise HostError("another visit is still running", where=str(folder), fix="wait until it has ended, or end it")


@dataclass
class Visit:
    """``only`` are the steps to run, all if empty; none begins after ``until_s`` seconds; ``path`` gets the record."""

    name: str
    until_s: float
    only: frozenset[str] = frozenset()
    path: Path | None = None
    steps: list[dict[str, Any]] = field(default_factory=list)
    _start: float = field(default_factory=time.monotonic)

    def step(self, name: str, call: Callable[..., Any], *needs: Any) -> Any:
        """The result of a step, `FAILED` if there is none; a dictionary's facts are part of the record."""
        if why := self._why_not(name, needs):
            return self._note(name, {"not run": why}, FAILED)
        print("VISIT", name, "...", flush=True)
        begun = time.monotonic()
        try:
            found = call(*needs)
        except (SystemExit, KeyboardInterrupt):
            seconds = round(time.monotonic() - begun, 1)
            self._note(name, {"seconds": seconds, "failed": "the visit was ended"}, FAILED)
            raise
        except Exception as error:
            traceback.print_exc()
            facts: dict[str, Any] = {"failed": f"{type(error).__name__}: {error}"[:2000]}
            facts |= error.found if isinstance(error, Unproved) else {}
            found = FAILED
        else:
            facts = found if isinstance(found, dict) else {}
        return self._note(name, {"seconds": round(time.monotonic() - begun, 1), **facts}, found)

    @property
    def failed(self) -> bool:
        return any("failed" in step for step in self.steps)

    def record(self) -> dict[str, Any]:
        """What is kept of the visit."""
        seconds = round(time.monotonic() - self._start, 1)
        date = f"{datetime.now(UTC):%Y-%m-%d}"
        return {"visit": self.name, "date": date, **host(), "seconds": seconds, "steps": self.steps}

    def _why_not(self, name: str, needs: Iterable[Any]) -> str:
        if self.only and name not in self.only:
            return "not asked for"
        if any(needed is FAILED for needed in needs):
            return "a step before it has no result"
        return "no time was left" if time.monotonic() - self._start > self.until_s else ""

    def _note(self, name: str, facts: dict[str, Any], found: Any) -> Any:
        self.steps.append({"step": name, **facts})
        print("VISIT", json.dumps(self.steps[-1], default=str), flush=True)
        if self.path:  # after each step: a visit may be cut off
            self.path.write_text(json.dumps(self.record(), indent=1, default=str) + "\n")
        return found


def host() -> dict[str, Any]:
    """The GPUs and the driver."""
    asked = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
    there = shutil.which(asked[0]) is not None
    found = subprocess.run(asked, capture_output=True, text=True).stdout if there else ""
    return {"gpus": found.splitlines(), "kernel": platform.release(), "python": platform.python_version()}
