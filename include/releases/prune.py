"""Pruning: frees the disk of artifacts that nobody needs any more. Reports and records of releases always stay.

It removes only what it has found by listing the store, and never by what a record says. What is damaged it leaves.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import Any

from include import reading
from include.artifacts.kind import Kind
from include.artifacts.pins import Pins
from include.artifacts.store import PARTIAL, TRASH, Artifact, ArtifactStore, set_aside
from include.errors import HostError
from include.files import Damaged, Log, Unreadable, disk_errors, remove
from include.frozen import Frozen
from include.reading import Limit
from include.releases.records import RELEASE_FILE, Release, ReleaseStore

# What is made from others goes first: a crash in between leaves nothing that looks usable and is not.
KINDS = tuple(reversed(Kind))


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

    It keeps the artifacts of each served name's live and previous release, of each model's current one, and of its last
    ``keep_last``;
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
        self._check_lists()
        if not dry_run:
            self._empty_trash()
        removed = tuple(one for path in self._doomed() if (one := self._remove(path, dry_run)))
        gone = {one.name for one in removed if one.kind is Kind.REPOSITORY}
        names = tuple(release.name for release in releases if release.repository in gone)
        return PruneReport(dry_run=dry_run, removed=removed, releases=names)

    def kept_releases(self) -> list[Release]:
        """The releases whose artifacts stay."""
        kept = [*self.releases.lives().values(), *map(self.releases.previous, self.releases.names())]
        for model in self.releases.models():
            last = self.releases.all(model)[-self.keep_last :] if self.keep_last else []
            kept += [self.releases.current(model), *last]
        return [release for release in kept if release]

    def _check_lists(self) -> None:
        """Raises the damage if a whole list of releases is missing: what these need cannot be known."""
        for damage in self.releases.damage.values():
            if isinstance(damage, Unreadable) and Path(damage.where).name != RELEASE_FILE:
                raise damage

    def _empty_trash(self) -> None:
        """Removes what claims have moved away, and what a pruning that was cut off has left."""
        trash = self.store.root / TRASH
        if trash.is_symlink():
            self.log(f"{trash} is a link: what it leads to stays")
            return
        for path in trash.glob("*"):
            with self._going_on(path):
                remove(path)

    @contextmanager
    def _going_on(self, path: Path) -> Iterator[None]:
        """What cannot be removed stays, and stops nothing else."""
        try:
            with disk_errors(path):
                yield
        except HostError as error:
            self.log(f"kept {path}: {error}")

    @cached_property
    def _damage(self) -> dict[str, Damaged]:
        """The damage among the artifacts, by its path."""
        return {}

    @cached_property
    def _artifacts(self) -> dict[Path, Artifact]:
        def note(damage: Damaged) -> None:
            self._damage[damage.where] = damage
            self.log(f"skipped: {damage}")

        kinds = [kind for kind in KINDS if not (self.store.root / kind).is_symlink()]
        return {artifact.path: artifact for kind in kinds for artifact in self.store.all(kind, note)}

    def _doomed(self) -> Iterator[Path]:
        kept = self._with_what_they_are_made_from(self._roots())
        yield from (path for path in self._artifacts if path not in kept)
        for kind in KINDS:
            directory = self.store.root / kind
            partials = [] if directory.is_symlink() else sorted(directory.glob(f"*{PARTIAL}*"))
            yield from (path for path in partials if self._is_old(_touched(path)))

    def _roots(self) -> set[Path]:
        """Artifacts that are needed for themselves."""
        released = {
            self.store.root / kind / name
            for release in self.kept_releases()
            for kind, name in (*release.chain.items(), (Kind.REPOSITORY, release.repository))
        }
        artifacts, texts = self._artifacts, self._texts_of_damage()
        return {
            path
            for path, artifact in artifacts.items()
            if path in released
            or path in self.served
            or self.pins.held_by(artifact.manifest.kind, path.name)
            or not self._is_old(artifact.manifest.created_at)
            or any(artifact.name in text or artifact.content in text for text in texts)
        }

    def _texts_of_damage(self) -> list[str]:
        """What is left of damaged records, and what lies beside them: an artifact that they name may be needed."""
        damaged = [Path(where) for where in (*self.releases.damage, *self._damage)]
        directories = {path if path.is_dir() and not path.is_symlink() else path.parent for path in damaged}
        files = [file for directory in directories for file in directory.glob("*.json")]
        return [_text(path) for path in {*files, *damaged}]

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
        kind, name = Kind(path.parent.name), path.name.split(PARTIAL)[0]
        moved = removed = None
        with self._going_on(path), self.store.if_unclaimed(kind, name) as free:
            user = "a run that builds it" if not free else self.pins.held_by(kind, name)
            if user:
                self.log(f"kept {kind}/{path.name}: needed by {user}")
                return None
            found = Removed(kind=kind, name=path.name, bytes=_bytes(path))
            self.log(f"{'would remove' if dry_run else 'removing'} {kind}/{path.name}, {found.bytes / 1e6:.1f} MB")
            moved = None if dry_run else set_aside(path)
            removed = found
        if moved:
            with self._going_on(moved):
                remove(moved)
        return removed


def _text(path: Path) -> str:
    """The text of a file that may be anything; empty if there is none."""
    try:
        return reading.read_bytes(path, Limit.RECORD, follow=False).decode(errors="replace")
    except OSError:
        return ""


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
    except (OSError, ValueError, OverflowError):  # the latter: a time beyond the calendar
        return datetime.now(UTC)
