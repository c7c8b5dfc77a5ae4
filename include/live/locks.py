"""The locks of the live address, as files: whoever waits for the server of one name keeps no other name waiting."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from include.files import Log, disk_errors, locked, try_lock

_NOBODY = ".nobody.lock"


class LiveLocks:
    """The locks of one deployment, below ``.locks`` in the store.

    A change of one name holds that name's lock, for as long as its server loads. All such changes share ``live.lock``,
    which `all` holds alone; earlier versions held it alone for any change. `links` is held for moments.
    """

    def __init__(self, root: Path, log: Log) -> None:
        self._every = root / "live.lock"
        self._links = root / "live-links.lock"
        self._names = root / "live"
        self._log = log

    @contextmanager
    def of(self, name: str) -> Iterator[None]:
        """Held while the releases, the server and the suspension of a name change."""
        with self._shared(), locked(self._path(name), lambda: self._log(_waits(name or "the servers of no model"))):
            yield

    @contextmanager
    def if_free(self, name: str) -> Iterator[bool]:
        """The lock `of` a name within the block, if nobody has it; False if somebody has it."""
        with ExitStack() as held:
            free = held.enter_context(self._shared_if_free())
            if lock := try_lock(self._path(name)) if free else None:
                held.callback(lock.release)
            yield lock is not None

    @contextmanager
    def all(self) -> Iterator[None]:
        """Held while nothing about any name may change."""
        with locked(self._every, lambda: self._log(_waits("all live releases"))):
            yield

    @contextmanager
    def links(self) -> Iterator[None]:
        """Held while a live link is moved, or while all of them are read to tell the proxy and the API of them."""
        with locked(self._links):
            yield

    def _path(self, name: str) -> Path:
        return self._names / (f"{name}.lock" if name else _NOBODY)

    @contextmanager
    def _shared(self) -> Iterator[None]:
        with self._shared_if_free() as free:
            if free:
                yield
                return
        self._log(_waits("all live releases"))
        with self._opened() as file:
            fcntl.flock(file, fcntl.LOCK_SH)
            yield

    @contextmanager
    def _shared_if_free(self) -> Iterator[bool]:
        with self._opened() as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
            else:
                yield True

    @contextmanager
    def _opened(self) -> Iterator[int]:
        """The file that locks of `filelock` are on, too; closing it ends the lock."""
        with disk_errors(self._every):
            self._every.parent.mkdir(parents=True, exist_ok=True)
            file = self._every.open("ab")
        with file:
            yield file.fileno()


def _waits(what: str) -> str:
    return f"another run is changing {what}: waiting for it"
