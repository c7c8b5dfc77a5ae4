"""Which entries a run looks at: those whose time has come, those that a person names, and always what is wrong."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from include.context import Context
from include.errors import UserError
from include.settings import Settings
from include.tasks import read_catalogue
from include.tasks.read_catalogue import Window

CATALOGUE = """\
- {name: hourly, model: org/a, target: openvino, schedule: "@hourly"}
- {name: nightly, model: org/b, target: openvino, schedule: "0 3 * * *"}
- {name: paused, model: org/c, target: openvino, schedule: "@hourly", enabled: false}
- {name: broken, model: org/d}
"""


@pytest.fixture
def log() -> list[str]:
    return []


@pytest.fixture
def reader(context: Context, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, log: list[str]) -> Context:
    path = tmp_path / "catalogue.yaml"
    path.write_text(CATALOGUE)
    monkeypatch.setenv("HF2TRITON_CATALOGUE", str(path))
    return replace(context, settings=Settings(), log=log.append)


def due(reader: Context, hours: tuple[int, int] | None = None, **params: Any) -> list[str]:
    window = hours and Window(
        since=datetime(2026, 11, 5, hours[0], tzinfo=UTC), until=datetime(2026, 11, 5, hours[1], tzinfo=UTC)
    )
    return [one.name for one in read_catalogue.run(reader, params, window)]


def test_a_scheduled_run_looks_at_what_is_due(reader: Context, log: list[str]) -> None:
    assert due(reader, (1, 2)) == ["hourly", "broken"]
    assert log == [
        "hourly: due",
        "nightly: not due before 2026-11-05 03:00 UTC",
        "paused: not enabled",
        f"broken: error in {reader.settings.catalogue}:4: target: Field required",
    ]


def test_after_a_pause_of_the_scheduler_nothing_is_forgotten(reader: Context) -> None:
    assert due(reader, (1, 9)) == ["hourly", "nightly", "broken"]


def test_a_run_by_hand_looks_at_all_that_are_enabled(reader: Context) -> None:
    assert due(reader) == ["hourly", "nightly", "broken"]


def test_a_run_by_hand_looks_at_those_that_it_names(reader: Context) -> None:
    assert due(reader, entries=["nightly"]) == ["nightly", "broken"]


@pytest.mark.parametrize(
    ("name", "hint"), [("nightl", "did you mean 'nightly'"), ("paused", "no entry 'paused' is enabled")]
)
def test_a_name_that_is_not_followed_is_refused(reader: Context, name: str, hint: str) -> None:
    with pytest.raises(UserError, match=hint):
        due(reader, entries=[name])


def test_what_is_wrong_comes_with_its_message(reader: Context) -> None:
    broken = read_catalogue.run(reader, {}, None)[-1]
    assert broken.entry is None
    assert broken.problem.endswith("catalogue.yaml:4: broken: target: Field required")
