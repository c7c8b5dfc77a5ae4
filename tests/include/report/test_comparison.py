"""Settings beside each other, and the one that is recommended."""

from __future__ import annotations

from pathlib import Path

import pytest

from include.report.comparison import Row, SettingsComparison, comparison_file, read_comparison, write_comparison
from include.report.page import render_settings


def row(setting: str, perplexity: float, megabytes: int, **fields: object) -> Row:
    known = {"checkpoint": "0" * 64, "perplexity_before": 10, "checkpoint_bytes": 1, "engine_bytes": megabytes * 10**6}
    return Row(setting=setting, perplexity_after=perplexity, **{**known, **fields})


def compared(*rows: Row) -> SettingsComparison:
    return SettingsComparison(model="org/<name>", target="openvino", rows=rows)


@pytest.mark.parametrize(
    ("rows", "recommended"),
    [
        ((("a", 12, 90), ("b", 11, 100)), "b"),
        ((("a", 11.1, 90), ("b", 11, 100)), "a"),
        ((("a", 11.2, 90), ("b", 11, 100)), "b"),
        ((("a", 11.05, 100), ("b", 11, 100)), "b"),
        ((("a", float("nan"), 1), ("b", 11, 100)), "b"),
        ((("a", float("inf"), 1), ("b", float("nan"), 1)), None),
    ],
    ids=["better", "as good and smaller", "not as good", "as good and as large", "no number", "none"],
)
def test_the_smallest_of_the_good_ones_is_recommended(
    rows: tuple[tuple[str, float, int], ...], recommended: str | None
) -> None:
    made = compared(*(row(*one) for one in rows))
    assert (made.recommended.setting if made.recommended else None) == recommended
    assert (recommended or "none can be recommended") in made.advice


def test_the_log_has_a_table_with_what_is_known() -> None:
    made = compared(
        row("g=32", 11, 100, tokens_per_s={1: 30, 4: 90.5}), row("g=64", 12, 90, note="speed not measured: no port")
    )
    head, first, second, note, advice = made.lines()
    assert head.split("  ")[0] == "setting"
    assert first.split() == ["g=32", "11.000", "+10.0%", "0.0", "100.0", "30.0", "90.5"]
    assert second.split()[-4:] == ["not", "measured", "not", "measured"]
    assert note == "g=64: speed not measured: no port"
    assert advice.startswith("Recommended: g=32")


def test_the_page_escapes_what_users_wrote() -> None:
    html = render_settings(compared(row("a=<b>", 11, 100, tokens_per_s={1: 30}), row("b=1", 12, 90)))
    assert "a=&lt;b&gt;" in html
    assert "org/&lt;name&gt;" in html
    assert html.count("recommended</span>") == 1
    assert "not measured" in html


def test_a_run_has_its_comparison(tmp_path: Path) -> None:
    made = compared(row("g=32", 11, 100, tokens_per_s={1: 30.5}), row("g=64", 12, 90))
    assert read_comparison(tmp_path, "manual__1") is None
    write_comparison(tmp_path, "manual__1", made)
    assert read_comparison(tmp_path, "manual__1") == made
    comparison_file(tmp_path, "manual__1").write_text("{")
    assert read_comparison(tmp_path, "manual__1") is None
