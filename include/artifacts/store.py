"""The artifact store: directories named by a key over everything that can change their bytes.

A stage writes into ``<name>.partial-<attempt>``; `Claim.commit` hashes the files, writes ``manifest.json``,
syncs and renames. A directory with a manifest is complete and is never written again; without one it does
not exist. A lock per name lets one run build while others wait. The lock is the kernel's: it goes with its
process, however that ends.
"""

from __future__ import annotations

import glob
import hashlib
import json
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

from pydantic import Field

from include.artifacts.kind import Kind
from include.errors import HostError
from include.files import Log, locked, sha256_of, sync, try_lock
from include.frozen import Frozen
from include.stages.common import REPORT_FILE

MANIFEST_FILE = "manifest.json"


class OutputFile(Frozen):
    """One file of an artifact: path relative to the artifact, size in bytes."""

    path: str
    size: int
    sha256: str


class Manifest(Frozen):
    """The record of an artifact: its inputs, its files, and how it was made."""

    schema_version: int = 1
    kind: Kind
    name: str
    inputs: dict[str, Any]
    outputs: list[OutputFile]
    report: dict[str, Any] = Field(default_factory=dict, description="The stage's own record (stage.json).")
    host: str = Field(default_factory=platform.node)
    started_at: datetime | None = Field(default=None, description="When the attempt that made it began.")
    created_at: datetime = Field(default_factory=lambda: datetime.now(UTC))


@dataclass(frozen=True)
class Artifact:
    """A complete directory of the store."""

    path: Path
    manifest: Manifest

    @property
    def name(self) -> str:
        """The directory's name: the key, or for a model ``<org>--<name>@<commit>``."""
        return self.manifest.name

    @property
    def content(self) -> str:
        """sha256 over the names and hashes of its files, 64 hex digits: equal for equal bytes."""
        return key_of({output.path: output.sha256 for output in self.manifest.outputs})

    @property
    def summary(self) -> str:
        """The artifact in one line of a log: name, size, time, and how long it took to make. Hashes are cut."""
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
        self.artifact = _read(self._final)
        self.hit = self.artifact is not None
        self.resumed = False
        self.partial = self._new_partial()

    @property
    def name(self) -> str:
        """The name that the artifact has or will have."""
        return self._final.name

    def prepare(self, resume: bool) -> None:
        """Makes the partial directory, or takes that of an attempt that died; removes those of all others."""
        leftovers = sorted(self._final.parent.glob(f"{glob.escape(self.name)}.partial-*"))
        if resume and leftovers:
            self.partial = leftovers.pop()
            self.resumed = True
        for path in leftovers:
            shutil.rmtree(path)
        self.partial.mkdir(exist_ok=True)

    def start_over(self) -> None:
        """Leaves the partial directory of an earlier attempt for a new, empty one.

        Its name is new, too: whoever still writes to the old one cannot reach it.
        """
        shutil.rmtree(self.partial, ignore_errors=True)
        self.resumed = False
        self.partial = self._new_partial()
        self.partial.mkdir()

    def commit(self) -> Artifact:
        """Turns the partial directory into the artifact: manifest, sync, rename."""
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
        self.partial.rename(self._final)
        sync(self._final.parent)
        self.artifact = Artifact(self._final, manifest)
        return self.artifact

    def _new_partial(self) -> Path:
        return self._final.parent / f"{self._final.name}.partial-{secrets.token_hex(4)}"

    def _take_report(self) -> dict[str, Any]:
        path = self.partial / REPORT_FILE
        if not path.exists():
            return {}
        report: dict[str, Any] = json.loads(path.read_text())
        path.unlink()
        return report


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
            HostError: a file of it is missing or has another size than its manifest says.
        """
        return _read(self.root / kind / name)

    def get(self, kind: Kind, name: str) -> Artifact:
        """Like `find`, for an artifact that an earlier stage made."""
        self._pin(kind, name)
        artifact = self.find(kind, name)
        if artifact is None:
            raise HostError(
                f"artifact {kind}/{name} is gone",
                where=str(self.root),
                fix="run the DAG again; if this host does not share the store, check HF2TRITON_ARTIFACTS",
            )
        return artifact

    def all(self, kind: Kind) -> list[Artifact]:
        """Every complete artifact of a kind, oldest first."""
        found = [_manifest_of(path.parent) for path in (self.root / kind).glob(f"*/{MANIFEST_FILE}")]
        artifacts = [Artifact(self.root / kind / m.name, m) for m in found if m]
        return sorted(artifacts, key=lambda a: a.manifest.created_at)

    def explain_miss(self, kind: Kind, inputs: Mapping[str, Any]) -> str:
        """The reason of a miss: the fields in which ``inputs`` differ from those of the nearest artifact."""
        candidates = [(differences(inputs, a.manifest.inputs), a) for a in self.all(kind)]
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
        directory = self.root / kind
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
            log(self.explain_miss(kind, inputs))
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

    def _lock_path(self, kind: Kind, name: str) -> Path:
        path = self.root / ".locks" / kind / f"{name}.lock"
        make_directory(path.parent)
        return path


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
    try:
        text = (path / MANIFEST_FILE).read_text()
    except (FileNotFoundError, NotADirectoryError):
        return None
    return None if ".partial-" in path.name else Manifest.model_validate_json(text)


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
