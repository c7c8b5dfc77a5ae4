"""A report with all that a report can hold."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from include.gates import Endpoint, GateResult, Load, Quality, Sample
from include.gates.verdict import Percentiles
from include.releases.contract import Change, Comparison
from include.releases.run import RunRecord, TaskTime
from include.report import ReleaseReport, Stage, Subject

WHEN = datetime(2026, 3, 1, 12, 30, tzinfo=UTC)


def load(server: str, concurrency: int, tokens_per_s: float, **latencies: Percentiles | None) -> Load:
    return Load(
        server=server,
        concurrency=concurrency,
        requests=8,
        failures=0,
        output_tokens=256,
        seconds=256 / tokens_per_s,
        output_tokens_per_s=tokens_per_s,
        requests_per_s=8 * tokens_per_s / 256,
        **latencies,
    )


def spread(p50: float) -> Percentiles:
    return Percentiles(p50=p50, p90=2 * p50, p99=3 * p50)


def verdict(gate: str, outcome: str = "pass", **fields: Any) -> GateResult:
    return GateResult(gate=gate, outcome=outcome, threshold=f"threshold of {gate}", found=f"found by {gate}", **fields)


def stage(kind: str = "engines", task: str = "build_engine", **fields: Any) -> Stage:
    known = {
        "name": "0" * 64,
        "content": "1" * 64,
        "files": 2,
        "size_bytes": 3_000_000,
        "created_at": WHEN,
        "host": "h",
    }
    return Stage(kind=kind, task=task, **{**known, **fields})


def report(*verdicts: GateResult, **fields: Any) -> ReleaseReport:
    known = {
        "endpoint": Endpoint(host="127.0.0.1", http_port=1, grpc_port=2),
        "subject": Subject(model="org--model", number=3, target="openvino", source="org/model@abc"),
        "made_at": WHEN,
        "runs": ("manual__1",),
        "request": {"model": "org/model"},
        "chain": (stage(),),
    }
    return ReleaseReport(verdicts=verdicts or (verdict("ready"),), **{**known, **fields})


def full_report() -> ReleaseReport:
    sample = Sample(prompt="a prompt", answer="one two", expected="one three", expected_from="checkpoint", score=0.5)
    loads = tuple(
        load(server, clients, speed * clients, ttft_ms=spread(10), itl_ms=spread(5), latency_ms=spread(100))
        for clients in (1, 4)
        for server, speed in (("candidate", 30), ("live", 20))
    )
    return report(
        verdict("ready"),
        verdict("quality", rating="ACCEPT", measured={"ratio": 1.2}),
        verdict("streaming", "skip"),
        verdict("agreement", "fail", samples=(sample,), measured={"equal_share": 0.5}),
        verdict("speed", loads=loads),
        contract=Comparison(
            against="org--model/2",
            changes=(
                Change(field="inputs", breaking=False, text="new fields of requests: seed"),
                Change(field="streaming", breaking=True, text="streaming is <off>"),
            ),
        ),
        run=RunRecord(
            id="manual__1",
            queued_at=WHEN,
            started_at=WHEN,
            tasks=(
                TaskTime(task="check_request", state="success", seconds=12.5),
                TaskTime(task="approve_release", state="skipped"),
            ),
            versions={"triton": "2.51.0"},
        ),
        quality=Quality(before=10.0, after=12.0, samples=8, tokens=4000),
        answers=(sample,),
        chain=(
            stage("models", "pull_model", name="org--model@abc"),
            stage("checkpoints", "calibrate_awq", timings_s={"load": 2, "search": 98}, peak_rss_bytes=2 * 10**9),
            stage(timings_s={"build": 61}, peak_rss_bytes=10**9, gpu_peak_bytes=3 * 10**9, gpu="NVIDIA H200"),
        ),
    )
