"""Settings of one model are checked as releases are, and compared without touching what is live."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from include.artifacts.kind import Kind
from include.context import Context
from include.errors import HostError, UserError
from include.report.comparison import SettingsComparison, read_comparison
from include.tasks import ArtifactRef, check_settings, compare_settings

COMMON = {"calib_seq_len": 64, "max_input_len": 128, "max_seq_len": 256}
SETTINGS = ["awq_group_size=64", "awq_group_size=32 calib_size=16"]


@pytest.fixture
def params(model: Path) -> dict[str, Any]:
    return {"model": str(model), "settings": SETTINGS, "request": COMMON}


def made(context: Context, kind: Kind, content: str, **files: str) -> ArtifactRef:
    with context.store.claim(kind, {"is": content}, log=context.log) as claim:
        for name, text in files.items():
            (claim.partial / name.replace("_json", ".json")).write_text(text)
        claim.commit()
    return ArtifactRef(kind=kind, name=claim.name, reused=False)


def reference(after: float) -> str:
    quality = {"before": 10, "after": after, "samples": 8, "tokens": 4088}
    return json.dumps({"schema": 2, "quality": quality, "continuations": []})


def compared(context: Context, params: dict[str, Any], **changes: Any) -> SettingsComparison:
    checked = check_settings.run(context, params)
    checkpoints = (made(context, Kind.CHECKPOINT, f"c{n}", reference_json=reference(n)) for n in (14, 12))
    engines = (made(context, Kind.ENGINE, f"e{n}", weights="x" * n) for n in (100, 200))
    repositories = (made(context, Kind.REPOSITORY, f"r{n}") for n in range(2))
    return compare_settings.run(
        context, checked, tuple(checkpoints), tuple(engines), tuple(repositories), params | changes
    )


def test_each_setting_is_checked_as_a_release_is(context: Context, params: dict[str, Any]) -> None:
    checked = check_settings.run(context, params)
    assert [(one.request.awq_group_size, one.request.calib_size) for one in checked] == [(64, 32), (32, 16)]
    with pytest.raises(UserError, match="setting awq_group_size=128: group size 128 does not divide"):
        check_settings.run(context, params | {"settings": ["awq_group_size=64", "awq_group_size=128"]})


def test_the_table_has_perplexity_and_size_of_each(context: Context, params: dict[str, Any]) -> None:
    told: list[str] = []
    found = compared(replace(context, tell=told.append), params, measure_speed=False)
    assert told == [f"recommended: {SETTINGS[1]}"]
    assert [(row.setting, row.perplexity_after, row.engine_bytes) for row in found.rows] == [
        (SETTINGS[0], 14, 100),
        (SETTINGS[1], 12, 200),
    ]
    assert found.recommended == found.rows[1]
    assert read_comparison(context.settings.artifacts, context.run_id) == found
    assert (context.releases.every(), context.live_servers()) == ([], {})


def test_a_server_that_does_not_start_leaves_a_note(
    context: Context, params: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def launch(*_: object, **__: object) -> None:
        raise HostError("no GPU has room for it", fix="free one")

    monkeypatch.setattr(compare_settings, "launch_on_free_ports", launch)
    found = compared(context, params)
    assert [row.note for row in found.rows] == ["speed not measured: no GPU has room for it"] * 2
    assert found.clients == []
