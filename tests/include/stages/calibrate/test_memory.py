from __future__ import annotations

from pathlib import Path

import pytest

from include.errors import HostError
from include.stages.calibrate import memory
from include.stages.calibrate.source import SourceModel


@pytest.fixture
def source(llama: Path) -> SourceModel:
    return SourceModel.read(llama)


def test_this_host_has_memory() -> None:
    assert memory.available_bytes() > 0


def test_a_container_limit_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "_CGROUP", tmp_path)
    (tmp_path / "memory.max").write_text("5000\n")
    (tmp_path / "memory.current").write_text("2000\n")
    assert memory.available_bytes() == 3000


@pytest.mark.parametrize(
    ("room_for", "expected"), [(8, 8), (7, 4), (2, 2), (0, 1)], ids=["all", "half", "quarter", "one at least"]
)
def test_the_batch_is_halved_until_it_fits(
    source: SourceModel, monkeypatch: pytest.MonkeyPatch, room_for: int, expected: int
) -> None:
    room = memory.search_bytes(source.config, room_for * 32, 4)
    monkeypatch.setattr(memory, "available_bytes", lambda: room)
    assert memory.batch_that_fits(source.config, 8, 32, 4) == expected


def test_a_model_that_is_too_large_is_refused(source: SourceModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "available_bytes", lambda: source.weight_bytes)
    memory.check_model_fits(source, 2)
    with pytest.raises(HostError, match="the model takes"):
        memory.check_model_fits(source, 4)
