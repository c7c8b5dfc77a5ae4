"""The gates that a candidate passes before it goes live, through the endpoint that users will call.

A `Gate` judges a `Trial` and gives a `GateResult` with its evidence; `validate` tries a list of them.
"""

from __future__ import annotations

from include.gates import probes, quality, serving
from include.gates.agreement import Agreement, EndToken, Repetition
from include.gates.answered import AnsweredTask, check_tasks, read_answered
from include.gates.base import Gate, Trial, validate
from include.gates.reference import Continuation, HeldOut, Quality, Reference, read_reference
from include.gates.speed import Speed
from include.gates.tasks import Tasks
from include.gates.verdict import GateResult, Load, Outcome, Report, Sample
from include.requests.release import ReleaseRequest
from include.triton.client import Client, Endpoint, NoAnswer

__all__ = [
    "AnsweredTask",
    "Client",
    "Continuation",
    "Endpoint",
    "Gate",
    "GateResult",
    "HeldOut",
    "Load",
    "NoAnswer",
    "Outcome",
    "Quality",
    "Reference",
    "Report",
    "Sample",
    "Speed",
    "Trial",
    "check_tasks",
    "gates_for",
    "read_answered",
    "read_reference",
    "validate",
]


def gates_for(request: ReleaseRequest) -> tuple[Gate, ...]:
    """Every gate, with the limits that the request sets, in the order in which they are tried."""
    return (
        serving.Ready(),
        serving.Templates(),
        quality.Quality(request.max_perplexity_increase, request.max_perplexity_decrease),
        probes.SeedRequest(),
        probes.TestPrompts(),
        probes.SameOverGrpc(),
        probes.MaxTokens(),
        probes.StopWord(),
        probes.BadWord(),
        probes.Deterministic(),
        probes.Streaming(),
        Agreement(request.min_agreement),
        EndToken(),
        Repetition(request.max_repetition),
        Tasks(request.max_task_drop, request.max_task_relative_drop, request.task_guard_below),
        Speed(concurrencies=tuple(request.speed_concurrencies), min_ratio=request.min_speed_ratio),
    )
