"""Pruning: frees the disk of artifacts that nobody needs any more. Reports and records of releases always stay.

It removes only what it has found by listing the store, and never by what a record says. What is damaged it leaves.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
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


class Kept(Frozen):
    """An artifact that stays, and the reason. ``bytes`` is its size."""

    kind: Kind
    name: str
    bytes: int
    why: str


class PruneReport(Frozen):
    """The result of pruning. ``releases`` are those that cannot be rolled back to any more.

    ``store_bytes`` is the size of all artifacts before it, half-made ones included.
    """

    dry_run: bool
    removed: tuple[Removed, ...]
    releases: tuple[str, ...]
    kept: tuple[Kept, ...]
    store_bytes: int

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
        store_bytes = sum(_size(self.store.root / kind) for kind in KINDS)
        reasons = self._reasons()
        kept = tuple(self._keep(path, why) for path, why in reasons.items())
        removed = tuple(one for path in self._doomed(reasons) if (one := self._remove(path, dry_run)))
        gone = {one.name for one in removed if one.kind is Kind.REPOSITORY}
        names = tuple(release.name for release in releases if release.repository in gone)
        return PruneReport(dry_run=dry_run, removed=removed, releases=names, kept=kept, store_bytes=store_bytes)

    def kept_releases(self) -> list[Release]:
        """The releases whose artifacts stay."""
        return [release for release, _ in self._kept_releases()]

    def _kept_releases(self) -> list[tuple[Release, str]]:
        """The releases whose artifacts stay, each with the reason."""
        releases = self.releases
        kept: list[tuple[Release | None, str]] = [(release, "live") for release in releases.lives().values()]
        kept += [(releases.previous(name), f"the previous one of {name}") for name in releases.names()]
        for model in releases.models():
            last = releases.all(model)[-self.keep_last :] if self.keep_last else []
            kept += [(releases.current(model), "current"), *((one, f"of the last {self.keep_last}") for one in last)]
        return [(release, why) for release, why in kept if release]

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
    def _listed(self) -> tuple[dict[Path, Artifact], dict[str, Damaged]]:
        """The artifacts, and the damage among them by its path."""
        found: dict[str, Damaged] = {}

        def note(damage: Damaged) -> None:
            found[damage.where] = damage
            self.log(f"skipped: {damage}")

        kinds = [kind for kind in KINDS if not (self.store.root / kind).is_symlink()]
        return {artifact.path: artifact for kind in kinds for artifact in self.store.all(kind, note)}, found

    @property
    def _artifacts(self) -> dict[Path, Artifact]:
        return self._listed[0]

    @property
    def _damage(self) -> dict[str, Damaged]:
        return self._listed[1]

    def _keep(self, path: Path, why: str) -> Kept:
        kept = Kept(kind=self._artifacts[path].manifest.kind, name=path.name, bytes=_size(path), why=why)
        self.log(f"kept {kept.kind}/{kept.name}, {kept.bytes / 1e6:.1f} MB: {why}")
        return kept

    def _doomed(self, kept: Collection[Path]) -> Iterator[Path]:
        yield from (path for path in self._artifacts if path not in kept)
        for kind in KINDS:
            directory = self.store.root / kind
            partials = [] if directory.is_symlink() else sorted(directory.glob(f"*{PARTIAL}*"))
            yield from (path for path in partials if self._is_old(_touched(path)))

    def _reasons(self) -> dict[Path, str]:
        """The artifacts that stay, each with the reason: needed for itself, or for another that is made from it."""
        released: dict[Path, str] = {}
        for release, why in self._kept_releases():
            for kind, name in (*release.chain.items(), (Kind.REPOSITORY, release.repository)):
                released.setdefault(self.store.root / kind / name, f"release {release.name} is {why}")
        texts = self._texts_of_damage()
        ordered = dict.fromkeys([*(path for path in released if path in self._artifacts), *self._artifacts])
        found = {path: released.get(path) or self._own_reason(path, texts) for path in ordered}
        return self._with_what_they_are_made_from({path: why for path, why in found.items() if why})

    def _own_reason(self, path: Path, texts: list[str]) -> str:
        """The reason to keep an artifact that no release needs; empty if there is none."""
        artifact = self._artifacts[path]
        if path in self.served:
            return "a server runs on it"
        if user := self.pins.held_by(artifact.manifest.kind, path.name):
            return f"needed by {user}"
        if not self._is_old(artifact.manifest.created_at):
            return f"younger than {self.keep_for / timedelta(days=1):g} days"
        damaged = any(artifact.name in text or artifact.content in text for text in texts)
        return "a damaged record may name it" if damaged else ""

    def _texts_of_damage(self) -> list[str]:
        """What is left of damaged records, and what lies beside them: an artifact that they name may be needed."""
        damaged = [Path(where) for where in (*self.releases.damage, *self._damage)]
        directories = {path if path.is_dir() and not path.is_symlink() else path.parent for path in damaged}
        files = [file for directory in directories for file in directory.glob("*.json")]
        return [_text(path) for path in {*files, *damaged}]

    def _with_what_they_are_made_from(self, roots: dict[Path, str]) -> dict[Path, str]:
        """The roots and all artifacts that they were made from, as manifests name them by name or by content."""
        kept: dict[Path, str] = {}
        new = roots
        while new:
            kept |= new
            # Of several, the first: what a live release needs comes before all else.
            inputs = ((path, self._artifacts[path].manifest.inputs) for path in reversed(new))
            makers = {value: path for path, given in inputs for value in _strings(given)}
            new = {
                path: f"{maker.parent.name}/{maker.name[:12]} is made from it"
                for path, artifact in self._artifacts.items()
                if path not in kept and (maker := makers.get(artifact.name) or makers.get(artifact.content))
            }
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


def _size(path: Path) -> int:
    """The size of all files below a directory; those that vanish meanwhile count nothing."""
    total = 0
    for file in path.rglob("*"):
        with suppress(OSError):
            total += 0 if file.is_dir() else file.lstat().st_size
    return total


def _touched(path: Path) -> datetime:
    """The time of the last change of a directory or of anything in it; now, if it is changing."""
    try:
        return datetime.fromtimestamp(max(p.lstat().st_mtime for p in (path, *path.rglob("*"))), UTC)
    except (OSError, ValueError, OverflowError):  # the latter: a time beyond the calendar
        return datetime.now(UTC)
