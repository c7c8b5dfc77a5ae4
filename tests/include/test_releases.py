"""Releases are numbered once, and ``current`` always names a whole one."""

from __future__ import annotations

import multiprocessing
import threading
from pathlib import Path

import pytest

from include.releases import Release, Releases

MODEL = "org--name"


@pytest.fixture
def releases(tmp_path: Path) -> Releases:
    return Releases(tmp_path / "releases")


def open_release(releases: Releases, repository: str) -> Release:
    return releases.open(MODEL, target="openvino", repository=repository, chain={}, request={})


def test_numbers_count_up(releases: Releases) -> None:
    assert [open_release(releases, key).number for key in ("a", "b", "c")] == [1, 2, 3]


def test_the_same_repository_is_the_same_release(releases: Releases) -> None:
    first = open_release(releases, "a")
    assert open_release(releases, "a").number == first.number


def test_a_rejected_release_is_not_opened_again(releases: Releases) -> None:
    releases.set_state(open_release(releases, "a"), "rejected")
    assert open_release(releases, "a").number == 2


def test_current_moves_and_the_one_before_retires(releases: Releases) -> None:
    first, second = open_release(releases, "a"), open_release(releases, "b")
    releases.make_current(first)
    assert releases.current(MODEL).number == 1
    releases.make_current(second)
    assert releases.current(MODEL).number == 2
    assert [r.state for r in releases.all(MODEL)] == ["retired", "live"]


def test_without_a_release_nothing_is_current(releases: Releases) -> None:
    assert releases.current(MODEL) is None


def test_making_the_current_one_current_again_changes_nothing(releases: Releases) -> None:
    first = releases.make_current(open_release(releases, "a"))
    releases.make_current(first)
    assert [(r.number, r.state) for r in releases.all(MODEL)] == [(1, "live")]


def test_current_can_be_read_at_every_moment_of_a_move(releases: Releases) -> None:
    pair = [open_release(releases, key) for key in ("a", "b")]
    releases.make_current(pair[0])
    seen: set[int] = set()
    done = threading.Event()

    def read() -> None:
        while not done.is_set():
            seen.add(releases.current(MODEL).number)

    reader = threading.Thread(target=read)
    reader.start()
    for turn in range(50):
        releases.make_current(pair[turn % 2])
    done.set()
    reader.join()
    assert seen <= {1, 2}
    assert seen


def _open(root: Path, key: str) -> None:
    open_release(Releases(root), key)


def test_runs_that_open_at_once_get_numbers_of_their_own(releases: Releases) -> None:
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=_open, args=(releases.root, str(n))) for n in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [r.number for r in releases.all(MODEL)] == [1, 2, 3, 4]
    assert {r.repository for r in releases.all(MODEL)} == {"0", "1", "2", "3"}
