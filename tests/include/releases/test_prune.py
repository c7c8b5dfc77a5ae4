"""What pruning may never remove, on stores made at random; what it frees; what a crash of it leaves."""

from __future__ import annotations

import json
import os
import random
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from include.artifacts.pins import Pins
from include.artifacts.store import MANIFEST_FILE, ArtifactStore
from include.releases.prune import KINDS, Pruner, PruneReport
from include.releases.records import Release, ReleaseStore

WEEK = timedelta(days=7)
LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)
CHAIN = ("models", "checkpoints", "engines", "repositories")
SIZE = 1000


@dataclass
class Scene:
    root: Path
    log: list[str] = field(default_factory=list)
    held: ExitStack = field(default_factory=ExitStack)

    @property
    def store(self) -> ArtifactStore:
        return ArtifactStore(self.root)

    @property
    def releases(self) -> ReleaseStore:
        return ReleaseStore(self.root / "releases")

    @property
    def pins(self) -> Pins:
        return Pins(self.root / "pins")

    def artifact(self, kind: str, made_from: str | None = None, *, old: bool = True, **inputs: str) -> str:
        """The name of an artifact of ``SIZE`` bytes and a manifest."""
        with self.store.claim(kind, {"from": made_from, **inputs}, log=self.log.append) as claim:
            if not claim.hit:
                (claim.partial / "data").write_bytes(os.urandom(SIZE))
                claim.commit()
        if old:
            self.age(self.root / kind / claim.name)
        return claim.name

    def age(self, path: Path) -> None:
        manifest = path / MANIFEST_FILE
        manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"created_at": LONG_AGO.isoformat()}))

    def release(self, model: str, version: str, shared: str = "") -> Release:
        """A release with a chain of its own down to the model, or to a checkpoint that ``shared`` names."""
        names = {"models": self.artifact("models", id=model)}
        content = self.store.get("models", names["models"]).content
        names["checkpoints"] = self.artifact("checkpoints", content, id=shared or version)
        names["engines"] = self.artifact("engines", names["checkpoints"], id=version)
        names["repositories"] = self.artifact("repositories", names["engines"], id=version)
        chain = {kind: name for kind, name in names.items() if kind != "models"}
        return self.releases.open(model, target="t", repository=names["repositories"], chain=chain, request={})

    def promote(self, release: Release) -> None:
        self.releases.make_live(release)
        self.releases.record_promotion(release.served_name)

    def chain_is_whole(self, release: Release) -> bool:
        """Whether everything that the release was made from is there, followed by the manifests."""
        repository = self.store.find("repositories", release.repository)
        engine = repository and self.store.find("engines", repository.manifest.inputs["from"])
        checkpoint = engine and self.store.find("checkpoints", engine.manifest.inputs["from"])
        contents = {model.content for model in self.store.all("models")}
        return bool(checkpoint and checkpoint.manifest.inputs["from"] in contents)

    def pruner(self) -> Pruner:
        return Pruner(self.store, self.releases, self.pins, keep_last=1, keep_for=WEEK, log=self.log.append)

    def prune(self, **changes: object) -> PruneReport:
        return replace(self.pruner(), **changes).prune(dry_run=False)

    def names(self) -> set[str]:
        return {path.name for kind in KINDS for path in (self.root / kind).glob("*")}

    def bytes(self) -> int:
        return sum(p.stat().st_size for kind in KINDS for p in (self.root / kind).rglob("*") if p.is_file())


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    scene = Scene(tmp_path)
    with scene.held:
        yield scene


@pytest.mark.parametrize("seed", range(12))
def test_whatever_was_done_before_what_is_needed_stays(scene: Scene, seed: int) -> None:
    chance = random.Random(seed)
    models = ["org--a", "org--b", "org--c"]
    for number in range(chance.randrange(4, 12)):
        release = scene.release(chance.choice(models), str(number), chance.choice(["", "shared"]))
        scene.releases.judge(release, chance.choice(["accepted", "accepted", "rejected", "candidate"]))
        if scene.releases.get(release.model, release.number).verdict == "accepted" and chance.random() < 0.7:
            scene.promote(release)
        every = scene.releases.every()
        if chance.random() < 0.3 and any(r.promotions for r in every):
            scene.promote(chance.choice([r for r in every if r.promotions]))
    keep_last = chance.randrange(3)
    every = {r.name: r for r in scene.releases.every()}
    pinned = chance.choice(list(every.values()))
    for kind, name in pinned.chain.items():
        scene.pins.add("run", kind, name)
    needed = [*scene.releases.lives().values(), pinned]
    for model in scene.releases.models():
        all_of_it = scene.releases.all(model)
        needed += [
            scene.releases.current(model),
            scene.releases.previous(model.removeprefix("org--")),
            *all_of_it[len(all_of_it) - keep_last :],
        ]
    before = scene.bytes()

    report = scene.prune(keep_last=keep_last)

    assert all(scene.chain_is_whole(release) for release in needed if release)
    assert before - scene.bytes() == report.freed_bytes
    assert {name for name, r in every.items() if scene.releases.is_pruned(r)} == set(report.releases)
    assert not set(report.releases) & {r.name for r in needed if r}


def test_what_nobody_needs_goes_and_the_record_of_its_release_stays(scene: Scene) -> None:
    old, new = scene.release("org--a", "1"), scene.release("org--a", "2")
    scene.promote(new)
    report = scene.prune()
    assert {one.kind for one in report.removed} == {"repositories", "engines", "checkpoints"}
    assert all(one.bytes > SIZE for one in report.removed)
    assert report.releases == (old.name,)
    assert scene.releases.is_pruned(old)
    assert scene.releases.get("org--a", 1) == old
    assert scene.prune().removed == ()


def test_a_dry_run_says_the_same_and_removes_nothing(scene: Scene) -> None:
    scene.release("org--a", "1")
    scene.release("org--a", "2")
    before = scene.names()
    told = scene.pruner().prune(dry_run=True)
    assert scene.names() == before
    done = scene.prune()
    assert (told.removed, told.releases) == (done.removed, done.releases)
    assert done.removed


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_young_stays(scene: Scene, kind: str) -> None:
    name = scene.artifact(kind, old=False)
    assert scene.prune().removed == ()
    assert [one.name for one in scene.prune(keep_for=timedelta()).removed] == [name]


def test_what_a_server_runs_on_stays_with_all_below_it(scene: Scene) -> None:
    served = scene.release("org--a", "1")
    scene.release("org--a", "2")
    scene.prune(served=frozenset({scene.root / "repositories" / served.repository}))
    assert scene.chain_is_whole(served)


def test_what_a_run_is_building_stays(scene: Scene) -> None:
    name = scene.artifact("engines")
    with ArtifactStore(scene.root).claim("engines", {"from": None}, log=print):
        assert scene.prune().removed == ()
    assert [one.name for one in scene.prune().removed] == [name]


def pin(scene: Scene, name: str) -> None:
    scene.pins.add("run", "models", name)


def claim(scene: Scene, name: str) -> None:
    scene.held.enter_context(scene.store.claim("models", {}, log=print, name=name, resume=True))


def touch(scene: Scene, name: str) -> None:
    next((scene.root / "models").glob(f"{name}.partial-*"), None).joinpath("more").touch()


@pytest.mark.parametrize("use", [pin, claim, touch])
def test_a_download_in_part_stays_while_it_is_used(scene: Scene, use: Callable[[Scene, str], None]) -> None:
    partial = scene.root / "models" / "org--a@1.partial-0"
    partial.mkdir(parents=True)
    (partial / "weights").write_bytes(b"x" * SIZE)
    for path in (partial / "weights", partial):
        os.utime(path, (0, 0))
    shutil.copytree(partial, scene.root / "models" / "org--b@1.partial-0")
    use(scene, "org--a@1")
    assert [(one.name, one.bytes) for one in scene.prune().removed] == [("org--b@1.partial-0", SIZE)]
    assert partial.exists()


def test_a_pruning_that_was_killed_leaves_nothing_that_looks_complete(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene.release("org--a", "1")
    last = scene.release("org--a", "2")

    def killed(path: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(shutil, "rmtree", killed)
    with pytest.raises(KeyboardInterrupt):
        scene.prune()
    monkeypatch.undo()
    assert list((scene.root / ".trash").iterdir())
    for kind in CHAIN:
        assert all(scene.store.find(kind, artifact.name) for artifact in scene.store.all(kind))
    scene.prune()
    assert list((scene.root / ".trash").iterdir()) == []
    assert scene.chain_is_whole(last)
    assert len(scene.names()) == len(CHAIN)


def test_hard_links_are_not_counted_as_freed(scene: Scene) -> None:
    name = scene.artifact("models")
    path = scene.root / "models" / name
    os.link(path / "data", scene.root / "elsewhere")
    (removed,) = scene.prune().removed
    assert 0 < removed.bytes < SIZE


def test_what_stays_is_told_with_the_reason_and_with_the_size_of_all(scene: Scene) -> None:
    live, last = scene.release("org--a", "1"), scene.release("org--a", "2")
    scene.promote(live)
    young, running = scene.artifact("engines", id="young", old=False), scene.artifact("repositories", id="running")
    before = sum(path.lstat().st_size for path in scene.root.glob("*/*/*") if path.parent.parent.name in CHAIN)
    report = scene.prune(served=frozenset({scene.root / "repositories" / running}))
    why = {(one.kind, one.name): one.why for one in report.kept}
    assert why["repositories", live.repository] == "release org--a/1 is live"
    assert why["repositories", last.repository] == "release org--a/2 is of the last 1"
    assert why["engines", young] == "younger than 7 days"
    assert why["repositories", running] == "a server runs on it"
    checkpoint = scene.store.get("checkpoints", live.chain["checkpoints"])
    (model,) = [name for kind, name in why if kind == "models"]
    assert why["models", model] == f"checkpoints/{checkpoint.name[:12]} is made from it"
    assert report.store_bytes == before
    assert any(line.startswith(f"kept models/{model}") for line in scene.log)
