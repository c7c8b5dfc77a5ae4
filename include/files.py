"""Files and directories: reads that damage cannot stop, writes that a crash leaves whole or not done, digests, locks.

A record, a small JSON file of this project, is read by `read_record` and written by `write_atomic`.
"""

from __future__ import annotations

import errno
import hashlib
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from filelock import FileLock, Timeout
from pydantic import BaseModel, ValidationError

from include import reading
from include.errors import HostError
from include.reading import Limit, open_regular

Log = Callable[[str], None]
"""Takes one plain line of progress."""

_LOCK_POLL_S = 0.2
_FIXES = {
    errno.ENOSPC: "free some space or some inodes there, or put the artifacts on a larger disk",
    errno.EDQUOT: "raise the disk quota of this user, or put the artifacts elsewhere",
    errno.EACCES: "give the user that runs Airflow access to it",
    errno.EPERM: "give the user that runs Airflow access to it",
    errno.EROFS: "mount it writable, or put the artifacts elsewhere",
    errno.ENAMETOOLONG: "use a shorter name",
    errno.ESTALE: "mount the network file system anew",
    errno.ELOOP: "replace the link with a file",
    errno.ENOENT: "put it back, or check the path",
    errno.EISDIR: "move the directory out of the way",
    errno.ENOTDIR: "move the file out of the way",
}

_NO_FILE = (errno.EINVAL, errno.EISDIR, errno.ELOOP, errno.EFBIG, errno.ENXIO, errno.ENODEV, errno.ENAMETOOLONG)
"""Errors of reading that say what lies there, and not that the system fails."""

M = TypeVar("M", bound=BaseModel)


class Damaged(HostError):
    """A file that is there but cannot be used; ``where`` is its path. Lists skip it and name it."""


class Unreadable(Damaged):
    """A file that the system refuses to read: it may be whole, so nothing takes its place."""


Skip = Callable[[Damaged], None]
"""Takes a damage that was passed over."""


def ignore(damage: Damaged) -> None:
    """The `Skip` of those who do not tell about damage."""


def telling(log: Log) -> Skip:
    """The `Skip` that logs each damage once."""
    told: set[str] = set()

    def tell(damage: Damaged) -> None:
        if damage.where not in told:
            told.add(damage.where)
            log(f"skipped: {damage}")

    return tell


def host_error(error: OSError, where: str | os.PathLike[str]) -> HostError:
    """The failure for an error of the file system: its path, its reason and the remedy."""
    fix = _FIXES.get(error.errno or 0, "check the disk")
    return HostError(f"a file cannot be used: {error.strerror or error}", where=str(where), fix=fix)


@contextmanager
def disk_errors(where: Path | None = None) -> Iterator[None]:
    """Turns the errors of the file system into `HostError`; ``where`` is the path of those that name none.

    Without ``where`` these pass, and so do errors of the network, which name no path.
    """
    try:
        yield
    except OSError as error:
        path = error.filename if isinstance(error.filename, str | Path) else where
        if error.errno is None or path is None:  # huggingface_hub's own errors are without a number
            raise
        raise host_error(error, path) from error


def read_record(path: Path, kind: type[M]) -> M:
    """The model that a JSON file holds. Nothing that lies there instead can stop or delay the reader.

    Raises:
        FileNotFoundError: there is nothing of that name.
        Damaged: it is a link or no file, is too large, or does not fit the model; `Unreadable` if the system refuses.
    """
    try:
        return kind.model_validate_json(reading.read_bytes(path, Limit.RECORD, follow=False))
    except FileNotFoundError:
        raise
    except NotADirectoryError as error:
        raise FileNotFoundError(error.errno, error.strerror, str(path)) from error
    except (OSError, ValueError, RecursionError, OverflowError) as error:
        if isinstance(error, OSError) and error.errno not in _NO_FILE:
            what, fix = f"{path} cannot be read: {error.strerror}", _FIXES.get(error.errno or 0, "check the disk")
            raise Unreadable(what, where=str(path), fix=fix) from error
        raise damaged(path, _reason(error)) from error


def find_record(path: Path, kind: type[M]) -> M | None:
    """Like `read_record`; None if there is no such file."""
    try:
        return read_record(path, kind)
    except FileNotFoundError:
        return None


def damaged(path: object, why: str, fix: str = "repair it, or move it away") -> Damaged:
    """The failure that names a file and what is wrong with it."""
    return Damaged(f"{path} is damaged: {why}", where=str(path), fix=fix)


def _reason(error: Exception) -> str:
    """An error in one short line."""
    if isinstance(error, ValidationError):
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        return ": ".join(filter(None, (".".join(map(str, first["loc"])), first["msg"])))[:200]
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return text.replace("\n", " ")[:200]


def digest_of_tree(*roots: Path) -> str:
    """sha256 over the names and bytes of all files below ``roots`` (files or directories), 64 hex digits."""
    total = hashlib.sha256()
    for root in roots:
        files = [root] if root.is_file() else sorted(p for p in root.rglob("*") if p.is_file())
        for path in files:
            if "__pycache__" in path.parts:
                continue
            total.update(f"{path.relative_to(root.parent)}\0{sha256_of(path)}\n".encode())
    return total.hexdigest()


def sha256_of(path: Path) -> str:
    """sha256 of a regular file's bytes, 64 hex digits."""
    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_atomic(path: Path, text: str, *, private: bool = False) -> None:
    """Replaces ``path`` so that a reader, or a crash, sees the old text or the new, never a part.

    Nobody but the owner of its directory can read a ``private`` file, at no moment.

    Raises:
        HostError: the disk is full or cannot be written; the old text stays.
    """
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
        try:
            if private:
                _create_private(draft)
            draft.write_text(text, encoding="utf-8")
            sync(draft)
            replace(draft, path)
        except BaseException:
            draft.unlink(missing_ok=True)
            raise
        sync(path.parent)


def _create_private(draft: Path) -> None:
    draft.touch(0o600, exist_ok=False)
    if os.geteuid() == 0:
        owner = draft.parent.stat()
        os.chown(draft, owner.st_uid, owner.st_gid)


def replace(draft: Path, path: Path) -> None:
    """Renames ``draft`` to ``path`` in one step. A directory that lies there instead is moved aside."""
    if path.is_dir() and not path.is_symlink():
        path.rename(path.with_name(f".{path.name}.{secrets.token_hex(4)}"))
    draft.replace(path)


def remove(path: Path) -> None:
    """Removes a directory with all that is in it, or a file. Of a link only the link goes, wherever it points."""
    with disk_errors(path):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Makes a file, or the names in a directory, outlive a crash of the host."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def try_lock(path: Path, mode: int = -1) -> FileLock | None:
    """A file's lock, held; None if another has it. The kernel frees it when its process ends.

    ``mode`` is the file's, -1 for what the umask leaves.
    """
    lock = FileLock(path, mode=mode)
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            return None
    return lock


@contextmanager
def locked(path: Path, waiting: Callable[[], None] = lambda: None, mode: int = -1) -> Iterator[None]:
    """Holds a file's lock within the block; calls ``waiting`` first if another has it."""
    lock = try_lock(path, mode)
    if lock is None:
        waiting()
        lock = FileLock(path, mode=mode)
        lock.acquire(poll_interval=_LOCK_POLL_S)
    try:
        yield
    finally:
        lock.release()
