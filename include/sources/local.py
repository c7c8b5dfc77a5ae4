"""Models in a local directory: the commit is a hash over their content."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import time
from pathlib import Path

from include.errors import UserError
from include.files import Log, disk_errors
from include.model.check import check_model
from include.model.files import CONFIG_FILE, INDEX_FILE, named_templates, read_text
from include.sources.files import (
    ModelSource,
    SourceFile,
    check_files,
    choose_model_files,
    digest_of,
    field_model,
    megabytes,
    require_disk,
    shards_of,
)
from include.sources.progress import progress

_ACCESS = "give the user that runs the Airflow worker read access to the directory and its files"
_FIXES = {errno.EACCES: _ACCESS, errno.EPERM: _ACCESS, errno.EIO: "check the disk that it is on"}

REVISION = "local"
"""The ``revision`` of every local source."""


def resolve(directory: Path) -> ModelSource:
    """The needed files of the absolute ``directory``; the commit is a hash over (path, size, sha256) of each.

    Raises:
        UserError: not there, incomplete, unreadable, corrupted, or linked to outside.
    """
    try:
        return _resolve(directory)
    except OSError as error:
        raise UserError(
            f"the model cannot be read: {error.strerror}",
            where=field_model(error.filename or directory),
            fix=_FIXES.get(error.errno or 0, "replace it with a regular file, or remove it"),
        ) from error


def _resolve(directory: Path) -> ModelSource:
    if not directory.is_dir():
        what = "is not a directory" if directory.exists() else "does not exist"
        raise UserError(
            f"the model directory {what}",
            where=field_model(directory),
            fix="check the path on the Airflow worker",
        )
    names = sorted(_choose(directory))
    # The small ones, the headers of the large ones, and only then hours of hashing.
    check_model(directory)
    files = [_source_file(directory, name) for name in names]
    return ModelSource(
        origin="local",
        id=str(directory),
        revision=REVISION,
        commit=_commit(files),
        files=tuple(files),
        config=read_text(directory / CONFIG_FILE),
    )


def _choose(directory: Path) -> list[str]:
    where = field_model(directory)
    present = {path.name for path in directory.iterdir()}
    present |= {str(path.relative_to(directory)) for path in named_templates(directory).values()}
    if CONFIG_FILE not in present:
        present |= {str(path.relative_to(directory)) for path in directory.glob(f"*/{CONFIG_FILE}")}
        present |= {str(path.relative_to(directory)) for path in directory.glob(f"snapshots/*/{CONFIG_FILE}")}
    chosen = choose_model_files(present, where)
    _check_inside(directory, chosen)
    if INDEX_FILE not in chosen:
        return chosen
    shards = shards_of(read_text(directory / INDEX_FILE), present, where)
    _check_inside(directory, shards)
    return chosen + shards


def _check_inside(directory: Path, names: list[str]) -> None:
    """A model directory must not reach for files elsewhere on the machine."""
    root = directory.resolve()
    for name in names:
        target = Path(os.path.realpath(directory / name, strict=True))  # an OSError for an endless link
        if not target.is_relative_to(root):
            raise UserError(
                f"{name} is a link to {target}, outside the model's directory",
                where=field_model(directory / name),
                fix="copy the model with its links resolved: cp -rL (a Hub cache snapshot is made of such links)",
            )


def _source_file(directory: Path, name: str) -> SourceFile:
    path = directory / name
    return SourceFile(path=name, size=path.stat().st_size, digest=digest_of(path, "sha256"))


def _commit(files: list[SourceFile]) -> str:
    listing = [[file.path, file.size, file.digest.removeprefix("sha256:")] for file in files]
    return hashlib.sha256(json.dumps(listing, separators=(",", ":")).encode()).hexdigest()[:40]


def fetch(source: ModelSource, into: Path, *, log: Log) -> None:
    """Copies the files of ``source`` into ``into`` and proves their hashes.

    Copies, never hard links: a link would share the file with its owner, whose edit in place would change an
    artifact that had been proven.

    Raises:
        UserError: a file has changed since it was resolved.
        HostError: the disk is full or cannot be written.
    """
    started = time.monotonic()
    wanted = [item.file for item in check_files(into, source.files)]
    require_disk(into, sum(file.size for file in wanted))
    with progress(into, sum(file.size for file in wanted), log):
        for file in wanted:
            _copy(Path(source.id) / file.path, into / file.path)
    if bad := check_files(into, wanted):
        first, expected, got = bad[0]
        raise UserError(
            f"{first.path} has changed since the run began: expected {expected}, got {got}",
            where=field_model(Path(source.id) / first.path),
            fix="start again when nothing writes to the model's directory",
        )
    check_model(into)
    seconds = time.monotonic() - started
    log(f"copied and verified {len(source.files)} files, {megabytes(source.total_bytes)}, in {seconds:.1f} s")


def _copy(source: Path, target: Path) -> None:
    if not source.is_file():
        raise UserError(
            f"{source.name} is gone since the run began",
            where=field_model(source),
            fix="put the file back and start again",
        )
    with disk_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)
