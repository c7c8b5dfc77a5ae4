"""The store's promises: complete or absent, built once, and a miss that says why."""

from __future__ import annotations

import json
import multiprocessing
import os
import re
import signal
from pathlib import Path

import pytest

from include.artifacts.store import ArtifactStore, Claim, key_of
from include.errors import HostError
from include.files import write_atomic

INPUTS = {"model": {"commit": "c1"}, "options": {"group_size": 64, "dtype": "float16"}}


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore(tmp_path / "artifacts")


@pytest.fixture
def log() -> list[str]:
    return []


def build(store: ArtifactStore, inputs: dict = INPUTS, text: str = "weights", log: list[str] | None = None) -> Claim:
    with store.claim("checkpoints", inputs, log=(log if log is not None else []).append) as claim:
        if not claim.hit:
            (claim.partial / "sub").mkdir()
            (claim.partial / "sub" / "rank0.safetensors").write_text(text)
            claim.commit()
    return claim


def entries(store: ArtifactStore) -> list[str]:
    return sorted(p.name for p in (store.root / "checkpoints").iterdir())


def test_a_committed_artifact_is_found_with_its_manifest(store: ArtifactStore) -> None:
    build(store)
    artifact = store.get("checkpoints", key_of(INPUTS))
    (output,) = artifact.manifest.outputs
    assert (output.path, output.size) == ("sub/rank0.safetensors", len("weights"))
    assert artifact.manifest.inputs == INPUTS
    assert artifact.manifest.host


def test_the_key_ignores_order_and_sees_every_value() -> None:
    assert key_of({"a": 1, "b": {"c": 2}}) == key_of({"b": {"c": 2}, "a": 1})
    assert key_of({"a": 1}) != key_of({"a": "1"})


def test_a_hit_starts_nothing_and_says_so(store: ArtifactStore, log: list[str]) -> None:
    build(store)
    claim = build(store, text="other", log=log)
    assert claim.hit
    (line,) = log
    assert line.startswith(f"hit: checkpoints/{key_of(INPUTS)[:12]} (1 files, 0.0 MB; ")
    assert (claim.artifact.path / "sub" / "rank0.safetensors").read_text() == "weights"
    assert len(entries(store)) == 1


def test_a_miss_names_the_field_that_differs_from_the_nearest(store: ArtifactStore, log: list[str]) -> None:
    build(store, {**INPUTS, "model": {"commit": "far"}, "options": {"group_size": 1, "dtype": "x"}})
    build(store)
    build(store, {**INPUTS, "options": {"group_size": 128, "dtype": "float16"}}, log=log)
    nearest = key_of(INPUTS)[:12]
    assert log[0] == f"miss: differs from the nearest, {nearest}, in options.group_size (128 here, 64 there)"


def test_the_first_miss_says_that_the_store_is_empty_and_what_was_made(store: ArtifactStore, log: list[str]) -> None:
    build(store, log=log)
    miss, made = log
    assert miss == "miss: the store has no checkpoints yet"
    assert re.fullmatch(r"made checkpoints/[0-9a-f]{12} \(1 files, 0\.0 MB; \d{4}-.* UTC in \d+\.\d s\)", made)


def test_a_failed_build_leaves_nothing(store: ArtifactStore) -> None:
    with pytest.raises(ZeroDivisionError), store.claim("checkpoints", INPUTS, log=print) as claim:
        (claim.partial / "rank0.safetensors").write_text("half")
        raise ZeroDivisionError
    assert entries(store) == []


def test_a_resumable_claim_keeps_what_it_has(store: ArtifactStore) -> None:
    with pytest.raises(ZeroDivisionError), store.claim("models", INPUTS, log=print, resume=True) as claim:
        (claim.partial / "part").write_text("half")
        raise ZeroDivisionError
    with store.claim("models", INPUTS, log=print, resume=True) as claim:
        assert (claim.partial / "part").read_text() == "half"
        claim.commit()
    assert [p.name for p in (store.root / "models").iterdir()] == [key_of(INPUTS)]


def test_starting_over_leaves_the_old_directory_to_whoever_still_writes_there(store: ArtifactStore) -> None:
    with pytest.raises(ZeroDivisionError), store.claim("engines", INPUTS, log=print, resume=True) as claim:
        old = claim.partial
        raise ZeroDivisionError
    with store.claim("engines", INPUTS, log=print, resume=True) as claim:
        assert (claim.resumed, claim.partial) == (True, old)
        claim.start_over()
        assert not claim.resumed
        assert not old.exists()
        assert claim.partial != old
        claim.commit()


def test_a_claim_keeps_others_out_while_it_is_held(store: ArtifactStore) -> None:
    with store.claim("engines", INPUTS, log=print, resume=True) as claim:
        with store.if_unclaimed("engines", claim.name) as unclaimed:
            assert not unclaimed
        claim.commit()
    with store.if_unclaimed("engines", claim.name) as unclaimed:
        assert unclaimed


def test_the_stage_report_moves_into_the_manifest(store: ArtifactStore) -> None:
    with store.claim("engines", INPUTS, log=print) as claim:
        (claim.partial / "stage.json").write_text(json.dumps({"timings_s": {"build": 1.5}}))
        artifact = claim.commit()
    assert artifact.manifest.report == {"timings_s": {"build": 1.5}}
    assert artifact.manifest.outputs == []


def test_a_damaged_artifact_is_refused_with_the_file_named(store: ArtifactStore) -> None:
    path = build(store).artifact.path
    (path / "sub" / "rank0.safetensors").write_text("cut")
    with pytest.raises(HostError, match=r"rank0.safetensors has 3 bytes, its manifest says 7"):
        store.find("checkpoints", key_of(INPUTS))


def test_a_directory_without_a_manifest_does_not_exist(store: ArtifactStore) -> None:
    (store.root / "checkpoints" / key_of(INPUTS)).mkdir(parents=True)
    assert store.find("checkpoints", key_of(INPUTS)) is None
    with pytest.raises(HostError, match="is gone"):
        store.get("checkpoints", key_of(INPUTS))


def _build_and_die(root: Path, before_rename: bool) -> None:
    with ArtifactStore(root).claim("checkpoints", INPUTS, log=print) as claim:
        (claim.partial / "rank0.safetensors").write_text("half")
        if before_rename:
            (claim.partial / "manifest.json").write_text("{}")
        os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize("before_rename", [False, True], ids=["while writing", "before the rename"])
def test_a_builder_that_is_killed_leaves_nothing_that_counts(store: ArtifactStore, before_rename: bool) -> None:
    process = multiprocessing.get_context("spawn").Process(target=_build_and_die, args=(store.root, before_rename))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert store.find("checkpoints", key_of(INPUTS)) is None
    assert store.all("checkpoints") == []
    build(store)
    assert entries(store) == [key_of(INPUTS)]


def _build_once(root: Path, started: str, built: multiprocessing.Queue) -> None:
    with ArtifactStore(root).claim("checkpoints", INPUTS, log=print) as claim:
        if not claim.hit:
            (claim.partial / "by").write_text(started)
            claim.commit()
        built.put(claim.hit)


def test_of_two_runs_with_one_key_one_builds_and_the_other_waits(store: ArtifactStore) -> None:
    context = multiprocessing.get_context("spawn")
    hits = context.Queue()
    processes = [context.Process(target=_build_once, args=(store.root, str(n), hits)) for n in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert sorted(hits.get(timeout=5) for _ in processes) == [False, True, True]
    assert entries(store) == [key_of(INPUTS)]


def test_the_one_that_waits_says_so(store: ArtifactStore, log: list[str]) -> None:
    context = multiprocessing.get_context("spawn")
    held, release = context.Event(), context.Event()
    process = context.Process(target=_hold, args=(store.root, held, release))
    process.start()
    held.wait(20)

    def note(line: str) -> None:
        log.append(line)
        release.set()

    with store.claim("checkpoints", INPUTS, log=note) as claim:
        assert claim.hit
    process.join()
    assert "another run is building" in log[0]


def _hold(root: Path, held, release) -> None:
    with ArtifactStore(root).claim("checkpoints", INPUTS, log=print) as claim:
        held.set()
        release.wait(20)
        claim.commit()


def test_write_atomic_leaves_only_the_new_text(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    write_atomic(path, "old")
    write_atomic(path, "new")
    assert [p.name for p in tmp_path.iterdir()] == ["state.json"]
    assert path.read_text() == "new"


def test_a_root_that_cannot_be_written_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(HostError, match="HF2TRITON_ARTIFACTS"),
        ArtifactStore(tmp_path / "file").claim("models", INPUTS, log=print),
    ):
        pass
