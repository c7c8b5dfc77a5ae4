"""The cards come from the store as it is, and each record is read once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from include import report
from include.releases import records
from include.releases.records import Release, ReleaseStore
from include.report.models import Candidate
from include.report.served import Served, Snapshot
from tests.support.report import report as example

ADDRESS = "http://127.0.0.1:8000"


@pytest.fixture
def releases(tmp_path: Path) -> ReleaseStore:
    return ReleaseStore(tmp_path / "releases")


def make(releases: ReleaseStore, name: str, repository: str, *, live: bool = True) -> Release:
    made = releases.open(
        "org--model",
        target="openvino",
        repository=repository,
        chain={},
        request={"served_name": name, "aliases": [f"{name}-a"]},
    )
    report.write(releases.path(made), example())
    if live:
        releases.make_live(made)
        releases.record_promotion(name)
    return made


def served(releases: ReleaseStore, *candidates: Candidate) -> Served:
    return Served(Snapshot(releases.root), lambda name: name == "two", ADDRESS, candidates)


def test_live_names_come_first_and_the_default_before_them(releases: ReleaseStore) -> None:
    make(releases, "gone", "r1")
    make(releases, "two", "r2")
    make(releases, "one", "r3")
    make(releases, "new", "r4", live=False)
    releases.retire("gone", run="r", by="jo")
    found = [(card.name, card.is_default, card.live is not None, card.answers) for card in served(releases).cards()]
    assert found == [
        ("two", True, True, True),
        ("one", False, True, False),
        ("gone", False, False, None),
        ("new", False, False, None),
    ]


def test_a_card_has_the_history_of_its_name_alone(releases: ReleaseStore) -> None:
    first, second = make(releases, "one", "r1"), make(releases, "one", "r2")
    make(releases, "two", "r3")
    card = served(releases).card("one")
    assert card is not None
    assert [(line.release.id, line.state) for line in card.lines] == [(second.id, "live"), (first.id, "retired")]
    assert card.previous == first.id
    assert card.aliases == ("one-a",)
    assert all(line.report for line in card.lines)
    assert card.urls["generate"] == f"{ADDRESS}/v2/models/one/generate"
    assert served(releases).card("none") is None


def test_a_candidate_stands_under_its_own_name(releases: ReleaseStore) -> None:
    one, two = make(releases, "one", "r1", live=False), make(releases, "two", "r2", live=False)
    found = served(releases, Candidate("candidate-x", one.id, "http://127.0.0.1:1", streams=False)).cards()
    assert {card.name: len(card.candidates) for card in found} == {"one": 1, "two": 0}
    assert two.served_name == "two"


def test_a_list_reads_the_reports_of_live_releases_alone(releases: ReleaseStore) -> None:
    make(releases, "one", "r1")
    make(releases, "one", "r2")
    (card,) = served(releases).cards()
    assert [line.report is not None for line in card.lines] == [True, False]


def test_each_record_is_read_once(releases: ReleaseStore, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(4):
        make(releases, f"name-{number}", f"r{number}")
    read: list[Any] = []
    original = records._read
    monkeypatch.setattr(records, "_read", lambda path: read.append(path) or original(path))
    assert len(served(releases).cards()) == 4
    counted = {path: read.count(path) for path in read}
    assert max(counted.values()) == 1
