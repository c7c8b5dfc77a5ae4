"""Private files: the secrets of the deployment, and the copies that Envoy reads."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from include.errors import HostError, UserError
from include.files import disk_errors
from include.reading import open_regular

MOST_BYTES = 1 << 20
_OTHERS = 0o077


def read(path: Path, setting: str, *, private: bool = True) -> bytes:
    """The content of a file that a setting names.

    Raises:
        UserError: the path is not absolute, or the file is too long.
        HostError: it cannot be read, or, if it has to be ``private``, others than its owner may use it.
    """
    if not path.is_absolute():
        raise UserError(f"{path} is no absolute path", where=setting, fix="name the file by its absolute path")
    with disk_errors(path), open_regular(path) as file:
        mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
        if private and mode & _OTHERS:
            what = f"{path} has mode {mode:04o}: others than its owner may use it"
            raise HostError(what, where=setting, fix=f"chmod 600 {path}; and make new secrets if others have read it")
        content = file.read(MOST_BYTES + 1)
    if len(content) > MOST_BYTES:
        raise UserError(f"{path} is longer than {MOST_BYTES:,} bytes", where=setting, fix="name the right file")
    return content


def make_directory(directory: Path, owner: tuple[int, int] | None) -> None:
    """Makes a directory that nobody but its owner can enter; it and what is in it are given to ``owner``, if any."""
    with disk_errors(directory):
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        if owner:
            for path in (directory, *directory.iterdir()):
                os.chown(path, *owner)
