"""Files and directories: digests, locks, and writes that a crash leaves whole or not done."""

from __future__ import annotations

import hashlib
import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from include.reading import open_regular

Log = Callable[[str], None]
"""Takes one plain line of progress."""

_LOCK_POLL_S = 0.2


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


def write_atomic(path: Path, text: str) -> None:
    """Replaces ``path`` so that a reader, or a crash, sees the old text or the new, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    draft.write_text(text)
    sync(draft)
    draft.replace(path)
    sync(path.parent)


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
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return None
    return lock


@contextmanager
def locked(path: Path, waiting: Callable[[], None] = lambda: None, mode: int = -1) -> Iterator[None]:
    """Holds a file's lock within the block; calls ``waiting`` first if another has it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = try_lock(path, mode)
    if lock is None:
        waiting()
        lock = FileLock(path, mode=mode)
        lock.acquire(poll_interval=_LOCK_POLL_S)
    try:
        yield
    finally:
        lock.release()
