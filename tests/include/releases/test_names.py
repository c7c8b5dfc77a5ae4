"""Which model a history is of, and which release was live before, whatever clocks and directories are called."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from include.releases import records
from include.releases.records import RELEASE_FILE, Release, ReleaseStore
from include.requests.release import slug_of

A, B = "/a/merged", "/b/merged"
OLD = "local--merged"


@pytest.fixture
def releases(tmp_path: Path) -> ReleaseStore:
    return ReleaseStore(tmp_path / "releases")


def add(releases: ReleaseStore, model: str, *, name: str | None = None, live: bool = True) -> Release:
    """A release of a model, by default in the history that it has today."""
    name, number = name or releases.name_of(model), len(releases.every())
    release = releases.open(name, target="t", repository=f"r{number}", chain={}, request={"model": model})
    if live:
        releases.make_live(release)
        releases.record_promotion(release.served_name)
    return releases.get(release.model, release.number)


def test_two_directories_with_one_last_name_have_histories_of_their_own(releases: ReleaseStore) -> None:
    first, other = add(releases, A), add(releases, B)
    second = add(releases, A)
    assert releases.name_of(A) != releases.name_of(B)
    assert [r.number for r in releases.all(releases.name_of(A))] == [1, 2]
    assert first.served_name == other.served_name == "merged"
    assert releases.of_name("merged") == [first, second], "not the release of the other directory"
    assert releases.previous("merged") == first
    assert releases.all(releases.name_of(B)) == [other]


@pytest.mark.parametrize("same", ["/a/merged/", "//a/merged", "/a/./merged", "/a//merged"])
def test_one_path_is_one_model_however_it_is_written(releases: ReleaseStore, same: str) -> None:
    add(releases, A)
    assert releases.name_of(same) == releases.name_of(A)


def test_a_history_of_an_earlier_version_keeps_its_name(releases: ReleaseStore) -> None:
    old = add(releases, A, name=OLD)
    assert releases.name_of(A) == releases.name_of(f"{A}/") == OLD
    assert releases.name_of(B) == slug_of(B) != OLD
    add(releases, B)
    new = add(releases, A)
    assert (new.model, new.number) == (OLD, 2)
    assert releases.previous("merged").number == old.number


def test_a_history_without_a_request_is_told_by_its_chain(releases: ReleaseStore) -> None:
    releases.open(OLD, target="t", repository="r", chain={"model": f"{A}@{'0' * 40}"}, request={})
    assert (releases.name_of(A), releases.name_of(B)) == (OLD, slug_of(B))


def test_a_shared_history_stays_with_the_directory_that_was_live_last(releases: ReleaseStore) -> None:
    add(releases, A, name=OLD)
    add(releases, B, name=OLD)
    live = add(releases, A, name=OLD)
    add(releases, B, name=OLD, live=False)
    assert (releases.name_of(A), releases.name_of(B)) == (OLD, slug_of(B))
    assert releases.previous("merged").number == 1, "not release 2, which is of the other directory"
    assert releases.live().id == live.id


def test_a_shared_history_without_a_promotion_stays_with_its_newest_release(releases: ReleaseStore) -> None:
    add(releases, A, name=OLD, live=False)
    add(releases, B, name=OLD, live=False)
    assert (releases.name_of(A), releases.name_of(B)) == (slug_of(A), OLD)


def test_an_organisation_called_local_is_no_directory(releases: ReleaseStore) -> None:
    add(releases, A, name=OLD)
    assert len({releases.name_of(model) for model in (A, B, "local/merged")}) == 3
    assert releases.name_of("org/merged") == "org--merged"


@pytest.mark.parametrize("name", ["org--name", OLD, "local--merged-12345678"])
def test_a_name_of_the_store_is_itself(releases: ReleaseStore, name: str) -> None:
    """Users may roll back by it."""
    assert releases.name_of(name) == name


class Clock(datetime):
    """A clock that shows what a test says."""

    shown = datetime(2026, 11, 28, tzinfo=UTC)

    @classmethod
    def now(cls, tz: object = None) -> datetime:
        return cls.shown


JUMPS = [timedelta(days=-3650), timedelta(0), timedelta(days=3650)]


@pytest.mark.parametrize("then", JUMPS, ids=str)
@pytest.mark.parametrize("now", JUMPS, ids=str)
def test_a_clock_that_jumps_does_not_change_what_previous_is(
    releases: ReleaseStore, monkeypatch: pytest.MonkeyPatch, then: timedelta, now: timedelta
) -> None:
    monkeypatch.setattr(records, "datetime", Clock)
    made = []
    for number, jump in enumerate([timedelta(0), then, now]):
        release = releases.open("org--name", target="t", repository=f"r{number}", chain={}, request={})
        releases.make_live(release)
        moment = (Clock.shown + jump).timestamp()
        os.utime(releases.root.parent / "live" / "name", (moment, moment), follow_symlinks=False)
        releases.record_promotion("name")
        made.append(release)
    assert releases.previous("name").id == made[1].id
    releases.make_live(made[1])
    releases.record_promotion("name")
    assert releases.previous("name").id == made[2].id
    link = releases.root.parent / "live" / "name"
    link.unlink()
    link.write_text("damaged")
    assert releases.live().id == made[1].id


def test_promotions_of_earlier_versions_come_before_all_others(releases: ReleaseStore) -> None:
    """They have times alone, which may lie in the future of a clock that was mended since."""
    old = [add(releases, "org/name") for _ in range(3)]
    for release, year in zip(old, (2040, 2041, 2039), strict=True):
        path = releases.path(release) / RELEASE_FILE
        fields = json.loads(path.read_text())
        fields["promotions"] = [{"at": f"{year}-01-01T00:00:00Z", "downtime_s": 0}]
        path.write_text(json.dumps(fields))
    releases.make_live(old[0])
    releases.record_promotion("name")
    assert releases.previous("name").id == old[1].id
    new = add(releases, "org/name")
    assert new.promotions[-1].order > 0
    assert releases.previous("name").id == old[0].id
