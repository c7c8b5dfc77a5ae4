"""What lies in the store and is no artifact of it costs nobody anything else."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest

from include.artifacts.kind import Kind
from include.artifacts.pins import Pins, run_slug
from include.artifacts.store import MANIFEST_FILE, Artifact, ArtifactStore
from include.errors import HostError
from include.files import Damaged, Unreadable
from tests.support.damage import NOT_A_FILE, NOT_A_RECORD, Make

DAMAGE = NOT_A_FILE | NOT_A_RECORD
INPUTS = {"id": "damaged"}


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore(tmp_path / "store")


def make(store: ArtifactStore, inputs: dict[str, str]) -> Artifact:
    with store.claim(Kind.ENGINE, inputs, log=print) as claim:
        if not claim.hit:
            with (claim.partial / "data").open("w") as file:
                file.write("hours of work")
            claim.commit()
    assert claim.artifact
    return claim.artifact


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_manifest_is_named_once_and_its_artifact_is_made_anew(store: ArtifactStore, damage: Make) -> None:
    broken, whole = make(store, INPUTS), make(store, {})
    manifest = broken.path / MANIFEST_FILE
    manifest.unlink()
    damage(manifest)
    named: list[Damaged] = []
    assert [artifact.name for artifact in store.all(Kind.ENGINE, named.append)] == [whole.name]
    assert [one.where for one in named] == [str(manifest)]
    with pytest.raises(Damaged, match=MANIFEST_FILE):
        store.find(Kind.ENGINE, broken.name)
    log: list[str] = []
    with store.claim(Kind.ENGINE, INPUTS, log=log.append) as claim:
        assert not claim.hit
        (claim.partial / "data").write_text("again")
        claim.commit()
    assert (store.get(Kind.ENGINE, broken.name).path / "data").read_text() == "again"
    (trash,) = (store.root / ".trash").iterdir()
    assert (trash / "data").read_text() == "hours of work"
    assert str(trash) in log[0]


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_whatever_lies_at_an_artifacts_place_makes_room(store: ArtifactStore, damage: Make) -> None:
    name = make(store, INPUTS).name
    path = store.root / Kind.ENGINE / name
    path.rename(store.root / "away")
    damage(path)
    assert store.find(Kind.ENGINE, "other") is None
    assert make(store, INPUTS).path == path
    assert (path / "data").read_text() == "hours of work"
    assert len(list((store.root / ".trash").iterdir())) == 1


def test_work_is_not_lost_to_a_directory_that_appears_while_it_is_done(store: ArtifactStore) -> None:
    with store.claim(Kind.ENGINE, INPUTS, log=print) as claim:
        (claim.partial / "data").write_text("hours of work")
        (store.root / Kind.ENGINE / claim.name / "foreign").mkdir(parents=True)
        claim.commit()
    assert (store.get(Kind.ENGINE, claim.name).path / "data").exists()


@pytest.mark.parametrize("changes", [{"name": "other"}, {"name": "../../outside"}, {"kind": "models"}])
def test_a_manifest_that_names_another_artifact_is_damaged(store: ArtifactStore, changes: dict[str, str]) -> None:
    manifest = make(store, INPUTS).path / MANIFEST_FILE
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | changes))
    named: list[Damaged] = []
    assert store.all(Kind.ENGINE, named.append) == []
    assert "it is the manifest of" in str(named[0])


@pytest.mark.parametrize("path", ["../data", "/etc/passwd", "a/../../b", ""])
def test_a_manifest_cannot_name_files_outside(store: ArtifactStore, path: str) -> None:
    manifest = make(store, INPUTS).path / MANIFEST_FILE
    fields = json.loads(manifest.read_text())
    fields["outputs"][0]["path"] = path
    manifest.write_text(json.dumps(fields))
    with pytest.raises(Damaged):
        store.get(Kind.ENGINE, manifest.parent.name)


@pytest.mark.parametrize("name", ["", ".", "..", "../x", "a/b", "/etc", "a\0b", ".trash", "x" * 250, "é" * 120])
def test_a_name_cannot_lead_out_of_the_store(store: ArtifactStore, name: str) -> None:
    pinned: list[str] = []
    with pytest.raises(HostError, match="no name of an artifact"):
        ArtifactStore(store.root, lambda kind, name: pinned.append(name)).get(Kind.ENGINE, name)
    if name:
        with pytest.raises(HostError), store.claim(Kind.ENGINE, {}, log=print, name=name):
            pass
    assert pinned == []
    assert not store.root.exists()


def test_a_linked_trash_does_not_take_artifacts_out_of_the_store(store: ArtifactStore, tmp_path: Path) -> None:
    (make(store, INPUTS).path / MANIFEST_FILE).unlink()
    (tmp_path / "outside").mkdir()
    (store.root / ".trash").symlink_to(tmp_path / "outside")
    make(store, INPUTS)
    assert list((tmp_path / "outside").iterdir()) == []


def test_a_manifest_that_the_system_refuses_is_left_in_its_place(
    store: ArtifactStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A network file system that is gone for a moment must not make hours of work move away."""
    made, before = make(store, INPUTS), os.open

    def refuse(path: object, *args: int, **options: int) -> int:
        if str(path).endswith(MANIFEST_FILE):
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE), str(path))
        return before(path, *args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", refuse)
        named: list[Damaged] = []
        assert store.all(Kind.ENGINE, named.append) == []
        assert len(named) == 1
        with pytest.raises(Unreadable, match="Stale") as caught:
            make(store, INPUTS)
        assert caught.value.fix == "mount the network file system anew"
    with store.claim(Kind.ENGINE, INPUTS, log=print) as claim:
        assert claim.hit
    assert claim.artifact == made


@pytest.mark.parametrize("call", ["mkdir", "rename", "write_text"])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EACCES])
def test_a_disk_that_fails_is_a_host_error_with_path_and_remedy(
    store: ArtifactStore, monkeypatch: pytest.MonkeyPatch, call: str, number: int
) -> None:
    make(store, {})

    def fail(path: Path, *args: object, **options: object) -> None:
        raise OSError(number, os.strerror(number), str(path))

    monkeypatch.setattr(Path, call, fail)
    with pytest.raises(HostError, match=os.strerror(number)) as caught:
        make(store, INPUTS)
    assert str(store.root) in str(caught.value)
    assert caught.value.fix not in ("", "check the disk")


def test_leftovers_that_are_no_directories_are_not_resumed(store: ArtifactStore, tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "file").touch()
    with store.claim(Kind.MODEL, {}, log=print, name="m", resume=True):
        pass
    (store.root / Kind.MODEL / "m.partial-zz").symlink_to(tmp_path / "outside")
    os.mkfifo(store.root / Kind.MODEL / "m.partial-zzz")
    with store.claim(Kind.MODEL, {}, log=print, name="m", resume=True) as claim:
        assert claim.resumed
        claim.commit()
    assert (tmp_path / "outside" / "file").exists()
    assert [path.name for path in (store.root / Kind.MODEL).iterdir()] == ["m"]


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_pins_of_a_run_hold_though_its_record_is_damaged(tmp_path: Path, damage: Make) -> None:
    named: list[Damaged] = []
    pins = Pins(tmp_path / "pins", named.append)
    pins.add("manual__1", Kind.ENGINE, "key")
    pins.add("manual__2", Kind.ENGINE, "other")
    record = tmp_path / "pins" / f"{run_slug('manual__1')}.run"
    record.unlink()
    damage(record)
    assert pins.runs() == ["manual__2"]
    assert [one.where for one in named] == [str(record)]
    assert pins.held_by(Kind.ENGINE, "key") == run_slug("manual__1")
    assert pins.drop_stale(lambda run: True) == ["manual__2"]
    assert pins.held_by(Kind.ENGINE, "key")
    assert pins.unknown() == [run_slug("manual__1")]
    pins.add("manual__1", Kind.ENGINE, "key")
    assert pins.held_by(Kind.ENGINE, "key") == "manual__1", "the run writes its record anew"
    pins.drop("manual__1")
    assert pins.held_by(Kind.ENGINE, "key") is None
