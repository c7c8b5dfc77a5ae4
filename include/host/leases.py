"""GPU leases: a stage's exclusive right to use some of a host's GPUs.

A lease is a file lock, which the kernel releases when its process ends. A container outlives its worker, so a
device that a running container holds counts as taken, too.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from urllib.parse import quote

from include.errors import HostError
from include.files import Log, locked, try_lock

POLL_S = 1.0
_ALL_USERS = 0o666


@contextmanager
def lease(
    count: int,
    devices: Sequence[str],
    *,
    directory: Path,
    in_use: Callable[[], Collection[str]],
    log: Log,
) -> Iterator[tuple[str, ...]]:
    """Holds ``count`` of ``devices`` (ids of this host's GPUs), all or none; waits until enough are free.

    ``directory`` must be the same for all workers of the host, and no other host's. ``in_use`` names the devices
    that containers hold.

    Raises:
        HostError: the host has too few GPUs, or the directory is not writable.
    """
    if count == 0:
        yield ()
        return
    if count > len(devices):
        raise HostError(
            f"{count} GPUs are needed, this host has {len(devices)}",
            where=", ".join(devices) or "no GPU",
            fix="set tp_size to what the host has, or run on a host with more GPUs",
        )
    _prepare(directory)
    with ExitStack() as held:
        # Only one waits for devices, the others wait for their turn: leases of one cannot starve a lease of two.
        first = directory / "turn.lock"
        with locked(first, lambda: log("waiting for this host's GPUs: another stage is first in line"), _ALL_USERS):
            taken = _take(count, devices, directory, in_use, held)
            if not taken:
                log(f"waiting for {count} of this host's GPUs {', '.join(devices)}")
            while not taken:
                time.sleep(POLL_S)
                taken = _take(count, devices, directory, in_use, held)
        log(f"GPUs leased: {', '.join(taken)}")
        yield taken


def _take(
    count: int, devices: Sequence[str], directory: Path, in_use: Callable[[], Collection[str]], held: ExitStack
) -> tuple[str, ...]:
    """Takes ``count`` free devices and hands their locks to ``held``; takes none if too few are free."""
    taken: list[str] = []
    with ExitStack() as locks:
        for device in devices:
            lock = try_lock(directory / f"{quote(device, safe='')}.lock", _ALL_USERS)
            if lock is None:
                continue
            # Checked with the lock held: from now on no other stage can start a container on the device.
            if device in in_use():
                lock.release()
                continue
            locks.callback(lock.release)
            taken.append(device)
            if len(taken) == count:
                held.push(locks.pop_all())
                return tuple(taken)
    return ()


def _prepare(directory: Path) -> None:
    try:
        if not directory.is_dir():
            directory.mkdir(parents=True, exist_ok=True)
            directory.chmod(0o777)  # workers of different users share the host's GPUs
    except OSError as error:
        raise HostError(
            f"cannot create {directory}: {error.strerror}",
            where="GPU leases",
            fix="point HF2TRITON_GPU_LEASE_DIR at a directory of this host that its workers can write",
        ) from error
