"""Pruning: frees the disk of artifacts that nobody needs any more. Reports and records of releases always stay."""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import Any

from include.artifacts.kind import Kind
from include.artifacts.pins import Pins
from include.artifacts.store import Artifact, ArtifactStore
from include.files import Log
from include.frozen import Frozen
from include.releases.records import Release, ReleaseStore

# What is made from others goes first: a crash in between leaves nothing that looks usable and is not.
KINDS = tuple(reversed(Kind))
_TRASH = ".trash"
_PARTIAL = ".partial-"


class Removed(Frozen):
    """A directory that was removed, or would be. ``bytes`` is the disk space that this frees."""

    kind: Kind
    name: str
    bytes: int


class PruneReport(Frozen):
    """The result of pruning. ``releases`` are those that cannot be rolled back to any more."""

    dry_run: bool
    removed: tuple[Removed, ...]
    releases: tuple[str, ...]

    @property
    def freed_bytes(self) -> int:
        """The disk space that all removals free together."""
        return sum(one.bytes for one in self.removed)


@dataclass(frozen=True)
class Pruner:
    """Finds and removes the artifacts that no release, run or server needs.

    It keeps the artifacts of the live release, of each model's current and previous one, and of its last ``keep_last``;
    the repositories that servers run on (``served``); artifacts that a run has pinned or is building; artifacts younger
    than ``keep_for``; and all artifacts that those were made from. Call it while no release can go live.
    """

    store: ArtifactStore
    releases: ReleaseStore
    pins: Pins
    keep_last: int
    keep_for: timedelta
    log: Log
    served: frozenset[Path] = frozenset()

    def prune(self, *, dry_run: bool) -> PruneReport:
        """Removes the artifacts that nothing needs; with ``dry_run`` only reports them."""
        releases = [r for r in self.releases.every() if not self.releases.is_pruned(r)]
        if not dry_run:
            for path in (self.store.root / _TRASH).glob("*"):  # a pruning that was cut off has left it
                shutil.rmtree(path)
        removed = tuple(one for path in self._doomed() if (one := self._remove(path, dry_run)))
        gone = {one.name for one in removed if one.kind is Kind.REPOSITORY}
        names = tuple(release.name for release in releases if release.repository in gone)
        return PruneReport(dry_run=dry_run, removed=removed, releases=names)

    def kept_releases(self) -> list[Release]:
        """The releases whose artifacts stay."""
        live = self.releases.live()
        kept = [] if live is None else [live]
        for model in self.releases.models():
            last = self.releases.all(model)[-self.keep_last :] if self.keep_last else []
            kept += [r for r in (self.releases.current(model), self.releases.previous(model), *last) if r]
        return kept

    @cached_property
    def _artifacts(self) -> dict[Path, Artifact]:
        return {artifact.path: artifact for kind in KINDS for artifact in self.store.all(kind)}

    def _doomed(self) -> Iterator[Path]:
        kept = self._with_what_they_are_made_from(self._roots())
        yield from (path for path in self._artifacts if path not in kept)
        for kind in KINDS:
            yield from (path for path in (self.store.root / kind).glob(f"*{_PARTIAL}*") if self._is_old(_touched(path)))

    def _roots(self) -> set[Path]:
        """Artifacts that are needed for themselves."""
        released = {
            self.store.root / kind / name
            for release in self.kept_releases()
            for kind, name in (*release.chain.items(), (Kind.REPOSITORY, release.repository))
        }
        return {
            path
            for path, artifact in self._artifacts.items()
            if path in released
            or path in self.served
            or self.pins.held_by(artifact.manifest.kind, path.name)
            or not self._is_old(artifact.manifest.created_at)
        }

    def _with_what_they_are_made_from(self, roots: set[Path]) -> set[Path]:
        """The roots and all artifacts that they were made from, as manifests name them by name or by content."""
        kept: set[Path] = set()
        new = roots
        while new:
            kept |= new
            named = {value for path in new for value in _strings(self._artifacts[path].manifest.inputs)}
            new = {p for p, a in self._artifacts.items() if {a.name, a.content} & named} - kept
        return kept

    def _is_old(self, when: datetime) -> bool:
        return datetime.now(UTC) - when > self.keep_for

    def _remove(self, path: Path, dry_run: bool) -> Removed | None:
        """Moves a directory away by one rename, so that nothing half-deleted looks complete, then deletes its files."""
        kind, name = Kind(path.parent.name), path.name.split(_PARTIAL)[0]
        with self.store.if_unclaimed(kind, name) as free:
            user = "a run that builds it" if not free else self.pins.held_by(kind, name)
            if user:
                self.log(f"kept {kind}/{path.name}: needed by {user}")
                return None
            removed = Removed(kind=kind, name=path.name, bytes=_bytes(path))
            self.log(f"{'would remove' if dry_run else 'removing'} {kind}/{path.name}, {removed.bytes / 1e6:.1f} MB")
            if dry_run:
                return removed
            trash = self.store.root / _TRASH / f"{path.name}.{secrets.token_hex(4)}"
            trash.parent.mkdir(exist_ok=True)
            path.rename(trash)
        shutil.rmtree(trash)
        return removed


def _strings(value: Any) -> Iterator[str]:  # noqa: ANN401 - any JSON
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        yield from (text for item in value.values() for text in _strings(item))
    elif isinstance(value, Iterable):
        yield from (text for item in value for text in _strings(item))


def _bytes(path: Path) -> int:
    """The disk space that deleting a directory frees. A file that has another name elsewhere frees none."""
    files = (file.lstat() for file in path.rglob("*") if not file.is_dir())
    return sum(file.st_size for file in files if file.st_nlink == 1)


def _touched(path: Path) -> datetime:
    """The time of the last change of a directory or of anything in it; now, if it is changing."""
    try:
        return datetime.fromtimestamp(max(p.lstat().st_mtime for p in (path, *path.rglob("*"))), UTC)
    except FileNotFoundError:
        return datetime.now(UTC)
