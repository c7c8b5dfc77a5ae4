"""A store of the version before served names: its live release is live under its name, and default, without a run."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path

import pytest

from include.releases.records import ReleaseStore
from tests.support.damage import NOT_A_FILE, Make
from tests.support.live import killed_before_change

# Literally as commit a7c6b8f wrote them.
RECORD = """{
 "model": "HuggingFaceTB--SmolLM2-135M-Instruct",
 "number": %d,
 "schema_version": 2,
 "verdict": "accepted",
 "target": "openvino",
 "repository": "4f5a%d",
 "chain": {
  "checkpoints": "c0",
  "engines": "e0",
  "repositories": "4f5a%d",
  "model": "HuggingFaceTB/SmolLM2-135M-Instruct@12fd25f77366fa6b3b4b768ec3050bf629380bac"
 },
 "request": {
  "model": "HuggingFaceTB/SmolLM2-135M-Instruct",
  "swap": "blue_green"
 },
 "promotions": [
  {
   "at": "2026-11-%dT10:00:00.123456Z",
   "downtime_s": 0.0,
   "order": %d
  }
 ],
 "approvals": [],
 "answer": "un",
 "server": null,
 "promoted_by": "manual__1",
 "outages": [],
 "created_at": "2026-11-20T09:00:00.000001Z"
}"""
MODEL, NAME = "HuggingFaceTB--SmolLM2-135M-Instruct", "smollm2-135m-instruct"
MOVED = 1_795_600_800_123_456_789  # with the nanoseconds that a link has


@pytest.fixture
def releases(tmp_path: Path) -> ReleaseStore:
    root = tmp_path / "releases"
    for number in (1, 2):
        (root / MODEL / str(number)).mkdir(parents=True)
        (root / MODEL / str(number) / "release.json").write_text(RECORD % (number, number, number, 19 + number, number))
    (root / MODEL / "current").symlink_to("2")
    (root / "live").symlink_to(f"{MODEL}/2")
    os.utime(root / "live", ns=(MOVED, MOVED), follow_symlinks=False)
    return ReleaseStore(root)


def moved(releases: ReleaseStore) -> int:
    return (releases.root.parent / "live" / NAME).lstat().st_mtime_ns


def test_the_live_release_is_live_under_its_name_and_the_default(releases: ReleaseStore) -> None:
    assert list(releases.lives()) == [NAME]
    assert (releases.default_name(), releases.live().number) == (NAME, 2)
    assert [releases.state(release) for release in releases.every()] == ["retired", "live"]
    assert releases.previous(NAME).number == 1
    assert releases.live_since(NAME) == datetime.fromtimestamp(MOVED / 1e9, UTC)
    assert not (releases.root.parent / "live").exists(), "reading changes nothing"
    assert releases.damage == {}


def test_the_first_promotion_puts_the_links_in_place_of_the_link(releases: ReleaseStore) -> None:
    recorded = releases.record_promotion(NAME)
    other = releases.open("org--other", target="t", repository="r", chain={}, request={})
    releases.make_live(other)
    assert moved(releases) == MOVED
    assert not os.path.lexists(releases.root / "live")
    assert releases.record_promotion(NAME) == recorded, "it is no second promotion"
    assert releases.record_promotion("other").promotions[-1].order == 4
    assert {name: str(live) for name, live in releases.live_ids().items()} == {
        NAME: f"{MODEL}/2",
        "other": "org--other/1",
    }
    assert releases.default_name() == NAME


def test_the_name_can_be_taken_off_the_air(releases: ReleaseStore) -> None:
    releases.retire(NAME, run="manual__2", by="ann")
    assert releases.lives() == {}
    assert [releases.state(release) for release in releases.every()] == ["retired", "retired"]
    (retired,) = releases.get(MODEL, 2).retirements
    assert (retired.run, retired.by) == ("manual__2", "ann")
    assert releases.previous(NAME).number == 2, "a rollback brings it back"


@pytest.mark.parametrize("damage", NOT_A_FILE.values(), ids=NOT_A_FILE)
def test_a_damaged_link_leads_to_the_release_that_was_promoted_last(releases: ReleaseStore, damage: Make) -> None:
    """And to no other model's, though each had been live at some time."""
    other = releases.root / "org--other" / "1" / "release.json"
    other.parent.mkdir(parents=True)
    other.write_text((RECORD % (1, 9, 9, 19, 0)).replace("HuggingFaceTB--SmolLM2-135M-Instruct", "org--other"))
    (releases.root / "live").unlink()
    damage(releases.root / "live")
    assert {name: live.number for name, live in releases.live_ids().items()} == {NAME: 2}
    releases.make_live(releases.get(MODEL, 1))
    assert {name: live.number for name, live in releases.live_ids().items()} == {NAME: 1}
    assert not os.path.lexists(releases.root / "live")


@pytest.mark.parametrize("cut", range(1, 4))
def test_one_release_is_live_wherever_the_upgrade_is_cut_off(releases: ReleaseStore, cut: int) -> None:
    assert killed_before_change(cut, releases.make_live, releases.get(MODEL, 1))
    assert releases.live_ids()[NAME].number == 2
    assert releases.live_since(NAME) == datetime.fromtimestamp(MOVED / 1e9, UTC)
    assert not killed_before_change(4, releases.make_live, releases.get(MODEL, 1))
    assert releases.live_ids()[NAME].number == 1
    assert not os.path.lexists(releases.root / "live")
