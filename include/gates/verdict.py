"""The gates' results with their evidence, and the report on one endpoint (docs/report.md)."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, computed_field

from include.frozen import Frozen
from include.gates.reference import Quality
from include.triton.client import Endpoint

Outcome = Literal["pass", "fail", "skip"]
_SHOWN = 160


class Sample(Frozen):
    """One answer of the candidate, and the text that it was held against."""

    prompt: str
    answer: str = Field(description="What the candidate answered.")
    expected: str | None = Field(default=None, description="What it was held against, if anything.")
    expected_from: str = Field(default="", description="Whose answer that is, e.g. `checkpoint`, `gRPC`.")
    score: float | None = Field(default=None, description="What the gate measured on this answer alone.")
    ok: bool = Field(default=True, description="Whether this answer alone is as the gate wants it.")
    note: str = Field(default="", description="One line for the reader.")


class Percentiles(Frozen):
    """Of one value for each request; linear between neighbours."""

    p50: float
    p90: float
    p99: float


class Load(Frozen):
    """One server under one constant load. Times are in milliseconds, None where no request was answered.

    ``ttft_ms`` and ``itl_ms`` are None, too, where the servers were not asked to stream.
    """

    server: Literal["candidate", "live"]
    concurrency: int = Field(description="Clients, each of which sends its next request when it has its answer.")
    requests: int
    failures: int = Field(description="How many of the requests got an error, or no answer.")
    output_tokens: int = Field(description="As the endpoint counted them.")
    seconds: float = Field(description="From the first request of a burst to its last answer, all bursts together.")
    output_tokens_per_s: float = Field(description="Of all clients together, in the median burst.")
    requests_per_s: float = Field(description="Answered requests, of all clients together.")
    latency_ms: Percentiles | None = Field(default=None, description="From a request to the end of its answer.")
    ttft_ms: Percentiles | None = Field(default=None, description="From a request to its first token.")
    itl_ms: Percentiles | None = Field(default=None, description="A request's mean time between tokens.")


class GateResult(Frozen):
    """The result of one gate. ``skip``: the gate could not be tried here, which is no failure."""

    gate: str
    outcome: Outcome
    threshold: str = Field(description="What it takes to pass, in words, with its numbers.")
    found: str = Field(description="What was found, in one line.")
    rating: str = Field(default="", description="`quality`: ACCEPT, REGRESSION or ANOMALOUS.")
    measured: dict[str, float] = Field(default_factory=dict, description="What was measured, by name.")
    samples: tuple[Sample, ...] = Field(default=(), description="The answers that were looked at.")
    loads: tuple[Load, ...] = Field(default=(), description="The loads that `speed` put on the servers.")


class Report(Frozen):
    """The verdicts on one endpoint."""

    schema_version: Literal[2] = 2
    verdicts: tuple[GateResult, ...]
    endpoint: Endpoint
    quality: Quality | None = Field(default=None, description="Perplexity before and after quantization.")
    answers: tuple[Sample, ...] = Field(default=(), description="Answers of candidate and checkpoint, side by side.")

    @computed_field  # type: ignore[prop-decorator]
    @property
    def passed(self) -> bool:
        """True if no gate failed."""
        return all(verdict.outcome != "fail" for verdict in self.verdicts)

    def failures(self) -> str:
        """The failed gates and their findings, a line each."""
        failed = [verdict for verdict in self.verdicts if verdict.outcome == "fail"]
        return "\n".join(f"gate {v.gate} failed ({v.threshold}): {v.found}" for v in failed)

    def to_markdown(self) -> str:
        """A table of the verdicts, narrow enough for the panel in which people approve."""
        rows = [f"| {v.gate} | {v.rating or v.outcome} | {_cell(v.found)} |" for v in self.verdicts]
        return "\n".join(["| gate | verdict | found |", "|---|---|---|", *rows, ""])


def shown(text: str) -> str:
    """``text`` in quotes, shortened for a line."""
    return repr(text if len(text) <= _SHOWN else f"{text[:_SHOWN]}...")


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;").replace("\n", " ")
