from __future__ import annotations

from pathlib import Path

import pytest

from include.artifacts.pins import Pins, run_slug
from include.artifacts.store import ArtifactStore
from include.errors import HostError


@pytest.fixture
def pins(tmp_path: Path) -> Pins:
    return Pins(tmp_path / "pins")


def test_a_run_holds_what_it_has_pinned_until_it_drops_it(pins: Pins) -> None:
    pins.add("run 1", "engines", "a")
    pins.add("run 1", "engines", "a")
    assert pins.held_by("engines", "a") == "run 1"
    assert pins.held_by("checkpoints", "a") is pins.held_by("engines", "b") is None
    pins.drop("run 1")
    assert pins.held_by("engines", "a") is None
    assert pins.runs() == []


def test_pins_of_runs_that_are_over_are_dropped(pins: Pins) -> None:
    pins.add("over", "engines", "a")
    pins.add("running", "engines", "a")
    assert pins.drop_stale(lambda run: run == "over") == ["over"]
    assert pins.runs() == ["running"]


def test_runs_with_like_names_have_pins_of_their_own() -> None:
    assert run_slug("manual__2026-11-22T18:42:36+00:00") != run_slug("manual__2026-11-22T18_42_36_00_00")


def test_a_store_pins_what_its_user_looks_for_before_the_look(pins: Pins, tmp_path: Path) -> None:
    held: list[bool] = []
    store = ArtifactStore(tmp_path, lambda kind, name: held.append((tmp_path / kind / name).exists()))
    with store.claim("engines", {}, log=print) as claim:
        claim.commit()
    store.get("engines", claim.name)
    with pytest.raises(HostError):
        store.get("engines", "gone")
    assert held == [False, True, False]
