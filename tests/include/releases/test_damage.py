"""A damaged file among the releases costs that file only; pruning never leaves the store."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from include.artifacts.store import MANIFEST_FILE
from include.errors import HostError, UserError
from include.files import Damaged, Unreadable, remove
from include.releases.records import RELEASE_FILE, Release, ReleaseStore
from tests.include.releases.test_prune import Scene
from tests.support.damage import NOT_A_FILE, NOT_A_RECORD, Make

DAMAGE = NOT_A_FILE | NOT_A_RECORD
MODEL, NAME = "org--name", "name"


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return Scene(tmp_path / "store")


def damage_record(scene: Scene, release: Release, damage: Make) -> Path:
    path = scene.releases.path(release) / RELEASE_FILE
    path.unlink()
    damage(path)
    return path


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_lists_skip_a_damaged_record_and_name_it_once(scene: Scene, damage: Make) -> None:
    first, second, third = (scene.release(MODEL, str(number)) for number in range(3))
    for release in (first, third):
        scene.promote(release)
    path = damage_record(scene, second, damage)
    named: list[Damaged] = []
    releases = ReleaseStore(scene.releases.root, named.append)
    assert releases.models() == [MODEL]
    assert [r.number for r in releases.every()] == [r.number for r in releases.all(MODEL)] == [1, 3]
    assert (releases.live().number, releases.current(MODEL).number, releases.previous(NAME).number) == (3, 3, 1)
    assert [one.where for one in named] == list(releases.damage) == [str(path)]
    with pytest.raises(Damaged, match=RELEASE_FILE):
        releases.get(MODEL, 2)
    assert releases.open(MODEL, target="t", repository="new", chain={}, request={}).number == 4
    assert scene.prune(keep_last=0).freed_bytes > 0
    assert scene.chain_is_whole(third)


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_record_of_the_live_release_is_named_and_kept(scene: Scene, damage: Make) -> None:
    first, second = scene.release(MODEL, "1"), scene.release(MODEL, "2")
    scene.promote(first)
    scene.promote(second)
    path = damage_record(scene, second, damage)
    before = os.lstat(path)
    live = scene.releases.record_promotion(NAME)
    assert (live.id, live.verdict, live.promotions) == (second.id, "accepted", ())
    assert scene.releases.previous(NAME).number == 1
    assert os.lstat(path) == before
    assert scene.prune(keep_last=0).releases == ()
    scene.promote(scene.releases.get(MODEL, 1))
    assert scene.releases.live().number == 1


# A directory in place of that of the links is one without links: nothing is live.
PLACES = {
    **{
        f"{place}, {name}": (place, make)
        for name, make in DAMAGE.items()
        for place in ("live/b", "releases/org--b/current")
    },
    **{f"live, {name}": ("live", make) for name, make in DAMAGE.items() if "directory" not in name},
}


@pytest.mark.parametrize(("place", "damage"), PLACES.values(), ids=PLACES)
def test_a_damaged_live_link_leads_to_the_release_of_its_name_that_was_promoted_last(
    scene: Scene, place: str, damage: Make
) -> None:
    retired, other, before, last = (
        scene.release(model, str(n)) for n, model in enumerate(("org--c", "org--a", "org--b", "org--b"))
    )
    for release in (retired, other, before, last):
        scene.promote(release)
    scene.releases.retire("c", run="run", by="ann")
    path = scene.root / place
    remove(path)
    damage(path)
    releases = scene.releases
    assert releases.live_ids() == {"a": other.id, "b": last.id}
    assert (releases.current("org--b") is None) is place.endswith("current")
    assert (releases.live_since("b") is None) is place.startswith("live")
    assert str(path) in releases.damage
    promotions = [releases.record_promotion(name).promotions for name in ("a", "b")]
    assert promotions == [releases.get(r.model, r.number).promotions for r in (other, last)]
    scene.promote(before)
    assert scene.releases.live_ids() == {"a": other.id, "b": before.id}
    assert scene.releases.current("org--b").id == before.id
    assert scene.releases.record_promotion("a").promotions == promotions[0], "mending is no promotion"


TARGETS = [MODEL, f"{MODEL}/1", "../outside/1", "/etc/1", f"x/../releases/{MODEL}/1"]


@pytest.mark.parametrize(
    "target", [*TARGETS, *(f"../releases/{MODEL}/{number}" for number in ("01", "x", "-1", "1/2"))]
)
def test_a_live_link_to_no_release(scene: Scene, target: str) -> None:
    scene.promote(scene.release(MODEL, "1"))
    link = scene.root / "live" / NAME
    link.unlink()
    link.symlink_to(target)
    releases = scene.releases
    assert releases.live().number == 1
    assert list(releases.damage) == [str(link)]


def test_what_is_no_name_among_the_live_links_is_named(scene: Scene) -> None:
    scene.promote(scene.release(MODEL, "1"))
    for name in ("ensemble", "A", "a b"):
        (scene.root / "live" / name).symlink_to(f"../releases/{MODEL}/1")
    releases = scene.releases
    assert releases.live_names() == [NAME]
    assert len(releases.damage) == 3


def test_a_live_link_to_a_release_that_is_gone_still_names_it(scene: Scene) -> None:
    """So its server, which may run, is not stopped."""
    scene.promote(release := scene.release(MODEL, "1"))
    shutil.rmtree(scene.releases.path(release))
    assert scene.releases.live().id == release.id
    with pytest.raises(UserError):
        scene.releases.get(MODEL, 1)


@pytest.mark.parametrize("changes", [{"model": "../../outside"}, {"model": "org--other"}, {"number": 2}, {"number": 0}])
def test_a_record_of_another_release_is_damaged(scene: Scene, changes: dict[str, object]) -> None:
    path = scene.releases.path(scene.release(MODEL, "1")) / RELEASE_FILE
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    releases = scene.releases
    assert releases.every() == []
    assert list(releases.damage) == [str(path)]


FOREIGN = [
    "notes.txt",
    f"{MODEL}/notes.txt",
    f"{MODEL}/2.bak/release.json",
    f"{MODEL}/03/release.json",
    "a b/1/release.json",
]


@pytest.mark.parametrize("name", FOREIGN)
def test_what_does_not_belong_there_is_named(scene: Scene, name: str) -> None:
    release = scene.release(MODEL, "1")
    path = scene.releases.root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(scene.releases.path(release) / RELEASE_FILE, path)
    releases = scene.releases
    assert [r.name for r in releases.every()] == [release.name]
    assert len(releases.damage) == 1


def test_links_among_the_releases_are_not_followed(scene: Scene, tmp_path: Path) -> None:
    release = scene.release(MODEL, "1")
    shutil.copytree(scene.releases.root / MODEL, tmp_path / "outside")
    (scene.releases.root / "org--linked").symlink_to(tmp_path / "outside")
    (scene.releases.root / MODEL / "2").symlink_to(tmp_path / "outside" / "1")
    releases = scene.releases
    assert [r.name for r in releases.every()] == [release.name]
    assert len(releases.damage) == 2


def outside(scene: Scene) -> Path:
    """A directory beside the store that looks like an artifact."""
    path = scene.root.parent / "outside"
    path.mkdir()
    (path / "precious").touch()
    return path


def test_pruning_does_not_go_where_a_manifest_points(scene: Scene) -> None:
    precious = outside(scene)
    manifest = scene.root / "engines" / scene.artifact("engines") / MANIFEST_FILE
    for name in ("../../outside", str(precious), "../models"):
        manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"name": name}))
        assert scene.prune().removed == ()
    assert (precious / "precious").exists()
    assert manifest.exists()


def test_pruning_follows_no_link(scene: Scene) -> None:
    precious, name = outside(scene), scene.artifact("engines")
    shutil.copytree(scene.root / "engines" / name, precious / name)
    (scene.root / "checkpoints").symlink_to(precious)
    (scene.root / "engines" / "linked").symlink_to(precious / name)
    (scene.root / "engines" / "old.partial-1").symlink_to(precious)
    os.utime(scene.root / "engines" / "old.partial-1", (0, 0), follow_symlinks=False)
    (scene.root / "engines" / name / "inner").symlink_to(precious)
    (scene.root / ".trash").symlink_to(precious)
    before = sorted(precious.rglob("*"))
    assert name in {one.name for one in scene.prune().removed}
    assert sorted(precious.rglob("*")) == before


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_pruning_leaves_what_is_damaged_and_goes_on(scene: Scene, damage: Make) -> None:
    broken, old = scene.artifact("engines", id="broken"), scene.artifact("engines", id="old")
    manifest = scene.root / "engines" / broken / MANIFEST_FILE
    manifest.unlink()
    damage(manifest)
    damage(scene.root / "engines" / "foreign")
    (scene.root / ".trash").mkdir()
    damage(scene.root / ".trash" / "left")
    assert [one.name for one in scene.prune().removed] == [old]
    assert manifest.parent.exists()
    assert os.path.lexists(scene.root / "engines" / "foreign")
    assert list((scene.root / ".trash").glob("left*")) == []
    assert sum(str(manifest) in line for line in scene.log if line.startswith("skipped")) == 1


def test_what_cannot_be_removed_stops_nothing_else(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    names = sorted(scene.artifact("engines", id=str(number)) for number in range(3))
    rename = Path.rename

    def refuse(path: Path, target: Path) -> Path:
        if path.name == names[1]:
            raise PermissionError(13, "Permission denied", str(path))
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", refuse)
    assert sorted(one.name for one in scene.prune().removed) == [names[0], names[2]]
    assert any(names[1] in line and "Permission denied" in line for line in scene.log)


@pytest.mark.parametrize("cut", [200, 5000], ids=["half a record", "a record and junk"])
def test_artifacts_of_a_damaged_live_release_stay(scene: Scene, cut: int) -> None:
    """Also if only the report beside the record still names them."""
    live, other = scene.release("org--a", "1"), scene.release("org--a", "2")
    scene.promote(other)
    scene.promote(live)
    path = scene.releases.path(live) / RELEASE_FILE
    path.with_name("report.json").write_text(path.read_text())
    path.write_text((path.read_text() + "\0" * 5000)[:cut])
    scene.release("org--a", "3")
    scene.prune()
    assert scene.chain_is_whole(live)


def test_what_a_damaged_manifest_was_made_from_stays(scene: Scene) -> None:
    live = scene.release("org--a", "1")
    scene.promote(live)
    manifest = scene.root / "checkpoints" / live.chain["checkpoints"] / MANIFEST_FILE
    manifest.write_text(manifest.read_text()[:-1])
    assert scene.prune().removed == ()


def test_nothing_is_pruned_while_releases_cannot_be_listed(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    scene.artifact("engines")
    scene.promote(scene.release(MODEL, "1"))
    iterdir = Path.iterdir

    def refuse(path: Path) -> object:
        if path.name == MODEL:
            raise PermissionError(13, "Permission denied", str(path))
        return iterdir(path)

    monkeypatch.setattr(Path, "iterdir", refuse)
    before = scene.names()
    with pytest.raises(Unreadable, match="Permission denied"):
        scene.prune()
    assert scene.names() == before


def test_releases_under_a_file_are_an_error_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "releases").touch()
    releases = ReleaseStore(tmp_path / "releases")
    assert releases.every() == []
    with pytest.raises(HostError) as caught:
        releases.open(MODEL, target="t", repository="r", chain={}, request={})
    assert str(tmp_path / "releases") in str(caught.value)


def test_times_beyond_the_calendar_prune_nothing(scene: Scene) -> None:
    name = scene.artifact("engines")
    manifest = scene.root / "engines" / name / MANIFEST_FILE
    for moment in ("0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00", "2020-01-01T00:00:00"):
        manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"created_at": moment}))
        assert scene.prune().removed == ()
    partial = scene.root / "engines" / "x.partial-1"
    partial.mkdir()
    os.utime(partial, (2**40, 2**40))
    assert scene.prune().removed == ()
