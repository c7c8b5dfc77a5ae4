"""Three ratings of what quantization did, and that nothing measured goes missing."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from include.gates import Client, Endpoint, HeldOut, Quality, Reference, Report, Trial, read_reference, validate
from include.gates.quality import Quality as Gate

NOWHERE = Endpoint(host="127.0.0.1", http_port=1, grpc_port=1)
HELD_OUT = HeldOut(text_sha256="abc", samples=8, tokens=4088)
MEASURED: dict[str, Any] = {"before": 12.0, "after": 14.0, "samples": 8, "tokens": 4088, "text_sha256": "abc"}


def _judge(gate: Gate, held_out: HeldOut | None = HELD_OUT, **changes: Any) -> Report:
    reference = Reference(continuations=(), quality=Quality(**MEASURED | changes), held_out=held_out)
    with Client.open(NOWHERE) as client:
        return validate(Trial(client, (), streaming=False, reference=reference), [gate])


@pytest.mark.parametrize(
    ("after", "rating"),
    [
        pytest.param(12.0, "ACCEPT", id="no change"),
        pytest.param(14.68, "ACCEPT", id="SmolLM2-135M"),
        pytest.param(15.59, "ACCEPT", id="at the limit"),
        pytest.param(15.61, "REGRESSION", id="beyond it"),
        pytest.param(1e6, "REGRESSION", id="broken"),
        pytest.param(11.8, "ACCEPT", id="better within noise"),
        pytest.param(11.7, "ANOMALOUS", id="better beyond noise"),
        pytest.param(1.0, "ANOMALOUS", id="all-knowing"),
        pytest.param(0.5, "ANOMALOUS", id="no perplexity"),
        pytest.param(math.nan, "ANOMALOUS", id="not a number"),
        pytest.param(math.inf, "ANOMALOUS", id="infinite"),
    ],
)
def test_perplexity_after_against_before(after: float, rating: str) -> None:
    (verdict,) = _judge(Gate(), after=after).verdicts
    assert verdict.rating == rating
    assert verdict.outcome == ("pass" if rating == "ACCEPT" else "fail")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        pytest.param({"samples": 7}, "4088 tokens to score in 8 samples", id="a sample dropped"),
        pytest.param({"tokens": 4087}, "4088 tokens to score in 8 samples", id="a token dropped"),
        pytest.param({"samples": 0, "tokens": 0}, "nothing was scored", id="nothing"),
        pytest.param({"text_sha256": "def"}, "another text", id="another text"),
        pytest.param({"held_out": None}, "the held-out text is missing", id="no text"),
    ],
)
def test_figures_that_cannot_be_of_the_whole_text_are_anomalous(changes: dict[str, Any], reason: str) -> None:
    (verdict,) = _judge(Gate(), **changes).verdicts
    assert (verdict.rating, verdict.outcome) == ("ANOMALOUS", "fail")
    assert reason in verdict.found


def test_limits_are_the_users() -> None:
    assert _judge(Gate(max_increase=0.05)).verdicts[0].rating == "REGRESSION"
    assert _judge(Gate(max_decrease=0.1), after=11.0).verdicts[0].rating == "ACCEPT"
    assert "rises by 5% at most" in Gate(max_increase=0.05).to_pass


def test_report_with_no_number_in_it_can_be_read_again() -> None:
    report = _judge(Gate(), after=math.nan)
    again = Report.model_validate_json(report.model_dump_json())
    assert again.quality is not None
    assert math.isnan(again.quality.after)


def test_reference_comes_with_the_size_of_the_held_out_text(tmp_path: Path) -> None:
    quality = MEASURED | {"metric": "perplexity", "tokens": 5, "samples": 2}
    (tmp_path / "reference.json").write_text(json.dumps({"schema": 2, "quality": quality, "continuations": []}))
    assert read_reference(tmp_path).held_out is None
    (tmp_path / "held_out.json").write_text(json.dumps({"text_sha256": "abc", "blocks": [[1, 2, 3, 4], [5, 6, 7]]}))
    assert read_reference(tmp_path).held_out == HeldOut(text_sha256="abc", samples=2, tokens=5)
