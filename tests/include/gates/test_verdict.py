from __future__ import annotations

from typing import Any

import pytest

from include.gates import Endpoint, GateResult, Report, Sample

ENDPOINT = Endpoint(host="127.0.0.1", http_port=1, grpc_port=2)


def _report(**changes: Any) -> Report:
    fields = {"gate": "stop_word", "outcome": "fail", "threshold": "t", "found": "f"} | changes
    return Report(endpoint=ENDPOINT, verdicts=(GateResult(**fields),))


def test_report_survives_json() -> None:
    sample = Sample(prompt="p", answer="a", expected="e", expected_from="checkpoint", score=0.5, ok=False)
    report = _report(samples=(sample,), measured={"share": 0.5}, rating="REGRESSION")
    assert Report.model_validate_json(report.model_dump_json()) == report


def test_table_cells_do_not_break_the_table() -> None:
    row = _report(found="a | b <script> \n c").to_markdown().splitlines()[2]
    assert row == "| stop_word | fail | a \\| b &lt;script>   c |"


@pytest.mark.parametrize(("outcome", "passed"), [("pass", True), ("skip", True), ("fail", False)])
def test_report_passes_unless_a_gate_failed(outcome: str, passed: bool) -> None:
    report = _report(outcome=outcome)
    assert report.passed == report.model_dump()["passed"] == passed
    assert report.failures() == ("" if passed else "gate stop_word failed (t): f")


def test_schema_describes_what_a_reader_needs() -> None:
    schema = Report.model_json_schema(mode="serialization")
    assert schema["properties"]["schema_version"]["const"] == 2
    assert {"passed", "verdicts", "endpoint", "quality", "answers"} <= set(schema["properties"])
