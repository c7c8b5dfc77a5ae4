"""GPU leases between real processes, some of which are killed."""

from __future__ import annotations

import multiprocessing
import os
import random
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from functools import partial
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

import pytest

from include.errors import HostError
from include.host import leases as gpu_leases

GPUS = ("0", "1", "GPU-7/a")
TIMEOUT_S = 30

_spawn = multiprocessing.get_context("spawn")
Lease = Callable[..., AbstractContextManager[tuple[str, ...]]]


@pytest.fixture
def log() -> list[str]:
    return []


@pytest.fixture
def lease(tmp_path: Path, log: list[str], monkeypatch: pytest.MonkeyPatch) -> Lease:
    monkeypatch.setattr(gpu_leases, "POLL_S", 0.05)
    return partial(gpu_leases.lease, devices=GPUS, directory=tmp_path / "leases", in_use=set, log=log.append)


class Holder:
    """A process that holds a lease until it is told, or made, to stop."""

    def __init__(self, directory: Path, count: int) -> None:
        self._said, theirs = _spawn.Pipe(duplex=False)
        self._release = _spawn.Event()
        self._process = _spawn.Process(target=_hold, args=(directory, count, theirs, self._release), daemon=True)
        self._process.start()

    def devices(self) -> tuple[str, ...]:
        """Waits until it has them."""
        while isinstance(said := self._hear(), str):
            pass
        return said

    def wait_until_it_waits(self) -> None:
        while not str(self._hear()).startswith("waiting for "):
            pass

    def _hear(self) -> str | tuple[str, ...]:
        assert self._said.poll(TIMEOUT_S), "no lease within half a minute"
        return self._said.recv()

    def release(self) -> None:
        self._release.set()
        self._process.join(TIMEOUT_S)

    def kill(self) -> None:
        self._process.kill()
        self._process.join()


def _hold(directory: Path, count: int, say: Connection, release: Event) -> None:
    gpu_leases.POLL_S = 0.05
    with gpu_leases.lease(count, GPUS, directory=directory, in_use=set, log=say.send) as devices:
        say.send(devices)
        release.wait()


@pytest.fixture
def hold(tmp_path: Path) -> Iterator[Callable[[int], Holder]]:
    holders: list[Holder] = []

    def start(count: int) -> Holder:
        holders.append(Holder(tmp_path / "leases", count))
        return holders[-1]

    yield start
    for holder in holders:
        holder.kill()


def test_leases_do_not_overlap_and_end_with_their_block(lease: Lease) -> None:
    with lease(1) as one, lease(2) as two:
        assert sorted((*one, *two)) == sorted(GPUS)
    with lease(3) as all_of_them:
        assert all_of_them == GPUS


def test_no_gpu_needs_no_lease(lease: Lease) -> None:
    with lease(3), lease(0) as none:
        assert none == ()


def test_a_lease_ends_with_an_error_too(lease: Lease) -> None:
    with pytest.raises(ZeroDivisionError), lease(3):
        raise ZeroDivisionError
    with lease(3):
        pass


def test_more_than_the_host_has_is_refused(lease: Lease) -> None:
    with pytest.raises(HostError, match="4 GPUs are needed, this host has 3"), lease(4):
        pass


def test_a_directory_that_cannot_be_made_is_a_clear_error(lease: Lease, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(HostError) as raised, lease(1, directory=tmp_path / "file" / "leases"):
        pass
    assert "HF2TRITON_GPU_LEASE_DIR" in raised.value.fix


def test_another_user_can_lease_as_well(lease: Lease, tmp_path: Path) -> None:
    with lease(1):
        pass
    for path in (tmp_path / "leases", *(tmp_path / "leases").iterdir()):
        assert path.stat().st_mode & 0o006 == 0o006


def test_a_process_waits_until_another_is_done(lease: Lease, log: list[str], hold: Callable[[int], Holder]) -> None:
    first = hold(2)
    assert len(first.devices()) == 2
    log_and_release = lambda line: (log.append(line), first.release())  # noqa: E731
    with lease(2, log=log_and_release) as devices:
        assert len(devices) == 2
    assert log[0] == "waiting for 2 of this host's GPUs 0, 1, GPU-7/a"


def test_a_killed_holder_gives_its_devices_back(lease: Lease, hold: Callable[[int], Holder]) -> None:
    holder = hold(3)
    holder.devices()
    holder.kill()
    with lease(3) as devices:
        assert devices == GPUS


def test_a_waiter_that_is_killed_does_not_stop_the_line(lease: Lease, hold: Callable[[int], Holder]) -> None:
    with lease(1):
        first_in_line = hold(3)
        first_in_line.wait_until_it_waits()
        second = hold(2)
        second.wait_until_it_waits()
        first_in_line.kill()
        assert len(second.devices()) == 2


def test_a_large_lease_is_not_starved_by_small_ones(lease: Lease, hold: Callable[[int], Holder]) -> None:
    small = hold(1)
    small.devices()
    waiting: list[Holder] = []

    def when_in_line(line: str) -> None:
        if line.startswith("waiting for 3 of"):
            waiting.append(hold(1))
            small.release()

    with lease(3, log=when_in_line) as devices:
        assert devices == GPUS
    assert len(waiting[0].devices()) == 1


def test_a_device_that_a_container_holds_is_taken(lease: Lease) -> None:
    with lease(1, in_use=lambda: {"0"}) as devices:
        assert devices == ("1",)
        with lease(2) as others:
            assert set(others) == {"0", "GPU-7/a"}, "it is taken by the container, not by the lease that passed it by"


def test_a_container_that_ends_frees_its_device(lease: Lease, log: list[str]) -> None:
    holds = {"0"}

    def when_waiting(line: str) -> None:
        log.append(line)
        holds.clear()

    with lease(3, in_use=lambda: holds, log=when_waiting) as devices:
        assert devices == GPUS
    assert "waiting for 3" in log[0]


def _work(directory: Path, seed: int, overlaps: Any) -> None:
    gpu_leases.POLL_S = 0.01
    order = random.Random(seed)
    for _ in range(8):
        with gpu_leases.lease(
            order.choice([1, 2, 3]), GPUS, directory=directory, in_use=set, log=lambda line: None
        ) as devices:
            marks = [directory / f"held-{GPUS.index(device)}" for device in devices]
            for mark in marks:
                try:
                    os.close(os.open(mark, os.O_CREAT | os.O_EXCL))
                except FileExistsError:
                    overlaps.put(str(mark))
            for mark in marks:
                mark.unlink(missing_ok=True)
    overlaps.put("done")


def test_many_runs_of_every_size_all_end_and_never_share(tmp_path: Path) -> None:
    overlaps = _spawn.Queue()
    processes = [_spawn.Process(target=_work, args=(tmp_path, seed, overlaps), daemon=True) for seed in range(4)]
    for process in processes:
        process.start()
    assert [overlaps.get(timeout=TIMEOUT_S) for _ in processes] == ["done"] * 4
    for process in processes:
        process.join()
