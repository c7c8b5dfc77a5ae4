"""The artifact store: directories named by a key over everything that can change their bytes.

A stage writes into ``<name>.partial-<attempt>``; `Claim.commit` hashes the files, writes ``manifest.json``,
syncs and renames. A directory with a manifest is complete and is never written again; without one it does
not exist. A lock per name lets one run build while others wait. The lock is the kernel's: it goes with its
process, however that ends.

Where an artifact is, and what it is called, follows from its place alone. A manifest that says otherwise is damaged:
lists skip it, and a claim moves what lies there to ``.trash``.
"""

from __future__ import annotations

import glob
import hashlib
import json
import os
import platform
import re
import secrets
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import Field, RootModel

from include.artifacts.kind import NAME_PATTERN, Kind
from include.errors import HostError
from include.files import (
    Damaged,
    Log,
    Skip,
    Unreadable,
    damaged,
    disk_errors,
    find_record,
    ignore,
    locked,
    remove,
    sha256_of,
    sync,
    telling,
    try_lock,
)
from include.frozen import Frozen, InsidePath, Moment
from include.stages.common import REPORT_FILE

MANIFEST_FILE = "manifest.json"
TRASH = ".trash"
PARTIAL = ".partial-"


class OutputFile(Frozen):
    """One file of an artifact: path relative to the artifact, size in bytes."""

    path: InsidePath
    size: int
    sha256: str


class Manifest(Frozen):
    """The record of an artifact: its inputs, its files, and the report of its stage."""

    schema_version: int = 1
    kind: Kind
    name: str
    inputs: dict[str, Any]
    outputs: list[OutputFile]
    report: dict[str, Any] = Field(default_factory=dict, description="The stage's own record (stage.json).")
    host: str = Field(default_factory=platform.node)
    started_at: Moment | None = Field(default=None, description="When the attempt that made it began.")
    created_at: Moment = Field(default_factory=lambda: datetime.now(UTC))


@dataclass(frozen=True)
class Artifact:
    """A complete directory of the store."""

    path: Path
    manifest: Manifest

    @property
    def name(self) -> str:
        """The directory's name: the key, or for a model ``<org>--<name>@<commit>``."""
        return self.path.name

    @property
    def content(self) -> str:
        """sha256 over the names and hashes of its files, 64 hex digits: equal for equal bytes."""
        return key_of({output.path: output.sha256 for output in self.manifest.outputs})

    @property
    def summary(self) -> str:
        """The artifact in one line of a log: name, size, time and duration of its making. Hashes are cut."""
        made = self.manifest
        size = sum(output.size for output in made.outputs) / 1e6
        took = f" in {(made.created_at - made.started_at).total_seconds():.1f} s" if made.started_at else ""
        name = re.sub(r"\b([0-9a-f]{12})[0-9a-f]{28,}", r"\1", made.name)
        files = f"{len(made.outputs)} files, {size:.1f} MB"
        return f"{made.kind}/{name} ({files}; {made.created_at:%Y-%m-%d %H:%M} UTC{took})"


def key_of(inputs: Mapping[str, Any]) -> str:
    """sha256 over the canonical JSON of ``inputs``: 64 hex digits."""
    canonical = json.dumps(inputs, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(canonical.encode()).hexdigest()


class Claim:
    """The right to use or to build one artifact, from `ArtifactStore.claim`.

    On a ``hit`` the artifact exists already, and nothing has to run. If ``resumed``, the partial directory is that of
    an earlier attempt.
    """

    def __init__(self, directory: Path, kind: Kind, name: str, inputs: Mapping[str, Any]) -> None:
        self._final = directory / name
        self._kind = kind
        self._inputs = dict(inputs)
        self._started_at = datetime.now(UTC)
        self.artifact = _whole(self._final)
        self.hit = self.artifact is not None
        self.resumed = False
        self.partial = self._new_partial()

    @property
    def name(self) -> str:
        """The name that the artifact has or will have."""
        return self._final.name

    def prepare(self, resume: bool) -> None:
        """Makes the partial directory, or takes that of an attempt that died; removes those of all others."""
        leftovers = sorted(self._final.parent.glob(f"{glob.escape(self.name)}{PARTIAL}*"))
        usable = [path for path in leftovers if path.is_dir() and not path.is_symlink()]
        if resume and usable:
            self.partial = usable.pop()
            self.resumed = True
        for path in leftovers:
            if path != self.partial:
                remove(path)
        with disk_errors(self.partial):
            self.partial.mkdir(exist_ok=True)

    def start_over(self) -> None:
        """Leaves the partial directory of an earlier attempt for a new, empty one.

        Its name is new, too: a program that still writes to the old one cannot reach it.
        """
        shutil.rmtree(self.partial, ignore_errors=True)
        self.resumed = False
        self.partial = self._new_partial()
        self.partial.mkdir()

    def commit(self) -> Artifact:
        """Turns the partial directory into the artifact: manifest, sync, rename.

        Raises:
            HostError: the disk is full or cannot be written.
        """
        with disk_errors(self.partial):
            self.artifact = self._commit()
        return self.artifact

    def _commit(self) -> Artifact:
        report = self._take_report()
        manifest = Manifest(
            kind=self._kind,
            name=self.name,
            inputs=self._inputs,
            outputs=[
                OutputFile(path=str(p.relative_to(self.partial)), size=p.stat().st_size, sha256=sha256_of(p))
                for p in _files(self.partial)
            ],
            report=report,
            started_at=self._started_at,
        )
        (self.partial / MANIFEST_FILE).write_text(manifest.model_dump_json(indent=1))
        for path in [*_files(self.partial), self.partial]:
            sync(path)
        set_aside(self._final)
        self.partial.rename(self._final)
        sync(self._final.parent)
        return Artifact(self._final, manifest)

    def _new_partial(self) -> Path:
        return self._final.parent / f"{self._final.name}{PARTIAL}{secrets.token_hex(4)}"

    def _take_report(self) -> dict[str, Any]:
        path = self.partial / REPORT_FILE
        report = find_record(path, RootModel[dict[str, Any]])
        path.unlink(missing_ok=True)
        return report.root if report else {}


class ArtifactStore:
    """All artifacts below one root, a directory for each kind.

    ``pin`` is called with the kind and name of each artifact before it is looked for: see `include.artifacts.pins`.
    """

    def __init__(self, root: Path, pin: Callable[[Kind, str], None] = lambda kind, name: None) -> None:
        self.root = root
        self._pin = pin

    def find(self, kind: Kind, name: str) -> Artifact | None:
        """The artifact, or None if it does not exist (a partial directory does not).

        Raises:
            HostError: its manifest is damaged, or a file of it is missing or has another size than that says.
        """
        return _read(self._path(kind, name))

    def get(self, kind: Kind, name: str) -> Artifact:
        """Like `find`, for an artifact that an earlier stage made."""
        self._path(kind, name)
        self._pin(kind, name)
        artifact = self.find(kind, name)
        if artifact is None:
            raise HostError(
                f"artifact {kind}/{name} is gone",
                where=str(self.root),
                fix="run the DAG again; if this host does not share the store, check HF2TRITON_ARTIFACTS",
            )
        return artifact

    def all(self, kind: Kind, skip: Skip = ignore) -> list[Artifact]:
        """Every complete artifact of a kind, oldest first; ``skip`` gets whatever else lies there."""
        found = [artifact for path in self._listing(kind, skip) if (artifact := _or_skip(path, skip))]
        return sorted(found, key=lambda artifact: artifact.manifest.created_at)

    def _listing(self, kind: Kind, skip: Skip) -> list[Path]:
        try:
            return [path for path in sorted((self.root / kind).iterdir()) if PARTIAL not in path.name]
        except FileNotFoundError:
            return []
        except OSError as error:
            skip(damaged(self.root / kind, error.strerror or str(error)))
            return []

    def explain_miss(self, kind: Kind, inputs: Mapping[str, Any], skip: Skip = ignore) -> str:
        """The reason of a miss: the fields in which ``inputs`` differ from those of the nearest artifact."""
        candidates = [(differences(inputs, a.manifest.inputs), a) for a in self.all(kind, skip)]
        if not candidates:
            return f"miss: the store has no {kind} yet"
        fields, nearest = min(candidates, key=lambda c: len(c[0]))
        shown = "; ".join(f"{d.field} ({d.here} here, {d.there} there)" for d in fields[:4])
        shown += "; ..." if len(fields) > 4 else ""
        return f"miss: differs from the nearest, {nearest.name[:12]}, in {shown}"

    @contextmanager
    def claim(
        self, kind: Kind, inputs: Mapping[str, Any], *, log: Log, name: str | None = None, resume: bool = False
    ) -> Iterator[Claim]:
        """Holds the lock of one artifact; waits while another process builds it.

        The caller looks at `Claim.hit`, or fills `Claim.partial` (an empty directory) and calls
        `Claim.commit`. If the block ends in any other way the partial directory is removed, unless
        ``resume``: then it stays, and the next claim that resumes goes on with it.
        """
        name = name or key_of(inputs)
        directory = self._path(kind, name).parent
        make_directory(directory)
        with locked(
            self._lock_path(kind, name), lambda: log(f"another run is building {kind}/{name[:12]}: waiting for it")
        ):
            self._pin(kind, name)
            claim = Claim(directory, kind, name, inputs)
            if claim.artifact is not None:
                log(f"hit: {claim.artifact.summary}: nothing to do")
                yield claim
                return
            if moved := set_aside(directory / name):
                log(f"{directory / name} is no complete artifact: it is moved to {moved}, until the next pruning")
            log(self.explain_miss(kind, inputs, telling(log)))
            claim.prepare(resume)
            try:
                yield claim
            finally:
                if claim.artifact is None and not resume:
                    shutil.rmtree(claim.partial, ignore_errors=True)
            if claim.artifact is not None:
                log(f"made {claim.artifact.summary}")

    def discard(self, claim: Claim) -> None:
        """Removes the partial directory of a claim that resumes, so that the next attempt begins anew."""
        shutil.rmtree(claim.partial, ignore_errors=True)

    @contextmanager
    def if_unclaimed(self, kind: Kind, name: str) -> Iterator[bool]:
        """True if no process holds the artifact's claim; then none can get it within the block."""
        lock = try_lock(self._lock_path(kind, name))
        try:
            yield lock is not None
        finally:
            if lock:
                lock.release()

    def _path(self, kind: Kind, name: str) -> Path:
        """The place of an artifact. A name that a damaged record or a request has must not lead elsewhere."""
        if not re.match(NAME_PATTERN, name) or PARTIAL in name or len(os.fsencode(name)) > _LONGEST_NAME:
            raise HostError(f"{name[:80]!r} is no name of an artifact", where=str(self.root / kind), fix=_NAME_FIX)
        return self.root / kind / name

    def _lock_path(self, kind: Kind, name: str) -> Path:
        path = self.root / ".locks" / kind / f"{name}.lock"
        make_directory(path.parent)
        return path


_LONGEST_NAME = 230
"""Bytes: there is room for what partial directories and locks append."""
_NAME_FIX = "the record or the request that has this name is damaged: run the request of its release again"


def set_aside(path: Path) -> Path | None:
    """Moves what lies at an artifact's place to the store's ``.trash``, which pruning empties; returns where it is."""
    if not os.path.lexists(path):
        return None
    trash = path.parent.parent / TRASH / f"{path.name}.{secrets.token_hex(4)}"
    with disk_errors(path):
        if trash.parent.is_symlink():
            trash.parent.unlink()  # what is moved must stay in the store
        trash.parent.mkdir(exist_ok=True)
        path.rename(trash)
    return trash


def _or_skip(path: Path, skip: Skip) -> Artifact | None:
    """The artifact at ``path``, without a look at its files."""
    try:
        if manifest := _manifest_of(path):
            return Artifact(path, manifest)
        raise damaged(path, f"it has no {MANIFEST_FILE}", "move it away")
    except Damaged as damage:
        skip(damage)
        return None


def _whole(path: Path) -> Artifact | None:
    """The artifact at ``path``; None if there is none, or if its manifest says nothing of it."""
    try:
        return _read(path)
    except Unreadable:
        raise
    except Damaged:
        return None


def _read(path: Path) -> Artifact | None:
    manifest = _manifest_of(path)
    if manifest is None:
        return None
    for output in manifest.outputs:
        file = path / output.path
        size = file.stat().st_size if file.is_file() else None
        if size != output.size:
            found = "is missing" if size is None else f"has {size} bytes, its manifest says {output.size}"
            raise HostError(
                f"artifact is damaged: {output.path} {found}",
                where=str(path),
                fix=f"remove the directory {path} and run again: it will be built anew",
            )
    return Artifact(path, manifest)


def _manifest_of(path: Path) -> Manifest | None:
    if path.is_symlink():
        raise damaged(path, "it is a link", "move the directory itself into the store")
    manifest = find_record(path / MANIFEST_FILE, Manifest)
    if manifest and (manifest.kind, manifest.name) != (path.parent.name, path.name):
        raise damaged(path / MANIFEST_FILE, f"it is the manifest of {manifest.kind}/{manifest.name[:80]}")
    return manifest


def _files(root: Path) -> list[Path]:
    return sorted(path for path in root.rglob("*") if path.is_file())


def make_directory(directory: Path) -> None:
    """Makes a directory of the store; raises `HostError` if this user cannot."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise HostError(
            f"cannot create {directory}: {error.strerror}",
            where="artifact store",
            fix="point HF2TRITON_ARTIFACTS at a directory that this user can write",
        ) from error


def _flat(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, item in value.items():
        path = f"{prefix}{name}"
        flat |= _flat(item, f"{path}.") if isinstance(item, Mapping) else {path: item}
    return flat


class Difference(NamedTuple):
    """A field, by its path, whose values differ; values are shortened to be read."""

    field: str
    here: str
    there: str


def differences(here: Mapping[str, Any], there: Mapping[str, Any]) -> list[Difference]:
    """The fields that differ, mappings within mappings included, in the order of their names."""
    ours, theirs = _flat(here), _flat(there)
    return [
        Difference(field, _short(ours.get(field)), _short(theirs.get(field)))
        for field in sorted(ours.keys() | theirs.keys())
        if ours.get(field) != theirs.get(field)
    ]


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 24 else f"{text[:12]}..."
