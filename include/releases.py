"""Releases: a proven model repository with a number, a report and a state, as files.

``releases/<model>/<n>/`` holds ``release.json``, ``report.json`` and ``report.md``;
``releases/<model>/current`` is a link to the number that is live.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from include.store import write_atomic

State = Literal["candidate", "rejected", "live", "retired"]
RELEASE_FILE = "release.json"


class Release(BaseModel):
    """One release. ``repository`` is the key of the artifact that it serves."""

    model_config = ConfigDict(frozen=True)
    schema_version: int = 1
    model: str
    number: int
    state: State
    target: str
    repository: str
    chain: dict[str, str] = Field(description="Names of the artifacts it was made from, by kind.")
    request: dict[str, Any]
    created_at: datetime = Field(default_factory=lambda: datetime.now(UTC))
    changed_at: datetime = Field(default_factory=lambda: datetime.now(UTC))


class Releases:
    """All releases below one root, a directory for each model."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def path(self, release: Release) -> Path:
        """The directory of a release."""
        return self.root / release.model / str(release.number)

    def all(self, model: str) -> list[Release]:
        """A model's releases, oldest first."""
        found = (self.root / model).glob(f"[0-9]*/{RELEASE_FILE}")
        return sorted((_read(path) for path in found), key=lambda r: r.number)

    def get(self, model: str, number: int) -> Release:
        """One release; raises `FileNotFoundError` if there is none of that number."""
        return _read(self.root / model / str(number) / RELEASE_FILE)

    def current(self, model: str) -> Release | None:
        """The model's live release."""
        try:
            return _read(self.root / model / "current" / RELEASE_FILE)
        except FileNotFoundError:
            return None

    def open(
        self,
        model: str,
        *,
        target: str,
        repository: str,
        chain: Mapping[str, str],
        request: Mapping[str, Any],
    ) -> Release:
        """The release of that repository: the one that is there (unless it was rejected), or a new candidate."""
        known = [r for r in self.all(model) if r.repository == repository and r.state != "rejected"]
        if known:
            return known[-1]
        number = 1 + max((r.number for r in self.all(model)), default=0)
        release = Release(
            model=model,
            number=number,
            state="candidate",
            target=target,
            repository=repository,
            chain=dict(chain),
            request=dict(request),
        )
        return self._create(release)

    def set_state(self, release: Release, state: State) -> Release:
        """Writes the state; the only field of a release that changes."""
        changed = release.model_copy(update={"state": state, "changed_at": datetime.now(UTC)})
        write_atomic(self.path(release) / RELEASE_FILE, changed.model_dump_json(indent=1))
        return changed

    def make_current(self, release: Release) -> Release:
        """Moves ``current`` to this release in one step; the one before it becomes retired."""
        before = self.current(release.model)
        link = self.root / release.model / f".current.{secrets.token_hex(4)}"
        link.symlink_to(str(release.number))
        link.replace(link.with_name("current"))
        if before and before.number != release.number:
            self.set_state(before, "retired")
        return self.set_state(release, "live")

    def _create(self, release: Release) -> Release:
        draft = self.root / release.model / f".draft.{secrets.token_hex(4)}"
        write_atomic(draft / RELEASE_FILE, release.model_dump_json(indent=1))
        while True:
            try:
                draft.rename(self.path(release))
            except OSError:  # another run took the number: a directory that holds files is never replaced
                if not self.path(release).exists():
                    raise
                release = release.model_copy(update={"number": release.number + 1})
                write_atomic(draft / RELEASE_FILE, release.model_dump_json(indent=1))
            else:
                return release


def _read(path: Path) -> Release:
    return Release.model_validate_json(path.read_text())
