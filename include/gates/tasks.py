"""Gate ``tasks``: tasks with known answers, asked of the original model once and of the candidate, in pairs."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from include.gates.answered import AnsweredTask
from include.gates.base import Gate, Trial
from include.gates.evidence import Evidence, Policy, Verdict, judge
from include.gates.verdict import GateResult, Outcome, Sample

_AT_ONCE = 4
_SHOWN = 40
_OUTCOMES: dict[Verdict, Outcome] = {"GO": "pass", "NO-GO": "fail", "INCONCLUSIVE": "ask"}


@dataclass(frozen=True)
class Tasks(
    Gate,
    name="tasks",
    threshold="of the tasks' right answers a share <= {max_drop:g} is lost, with 95 % confidence",
):
    """The candidate solves the tasks that the original model solves.

    ``max_drop`` is the damage that is accepted, ``max_relative_drop`` that as a share of the original's score, where
    this is below ``guard_below``; see `include.gates.evidence` for the rule. Tasks that both get wrong count for
    nothing, so a weak model is not blamed for what it never knew. 30 tasks of which four turn from right to wrong have
    an interval of +0.00 to +0.26: with so few, only a great damage can be told from chance. SmolLM2-135M in groups of
    64 loses 8 and wins 3, an interval of -0.05 to +0.39, which is still the release that it should be.
    """

    max_drop: float = 0.5
    max_relative_drop: float = 1
    guard_below: float = 1

    def judge(self, trial: Trial) -> GateResult:
        """Asks the candidate all tasks that fit it."""
        if not trial.tasks:
            return self.skip("no task was asked of the original model")
        fitting = [task for task in trial.tasks if _fits(task, trial)]
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            ask = lambda task: trial.client.text(task.prompt, max_tokens=task.max_tokens)  # noqa: E731
            answers = list(pool.map(ask, fitting))
        pairs = [_Pair(task, answer) for task, answer in zip(fitting, answers, strict=True)]
        evidence = Evidence([pair.before for pair in pairs], [pair.after for pair in pairs])
        rating, reason = judge(evidence, Policy(self.max_drop, self.max_relative_drop, self.guard_below))
        left_out = len(trial.tasks) - len(fitting)
        found = f"{_counts(pairs)}; {reason}" + (f"; {left_out} tasks are too long for it" if left_out else "")
        if pairs and not any(pair.before for pair in pairs):
            found += "; none could be lost, so these tasks say nothing of this model"
        return GateResult(
            gate=self.name,
            outcome=_OUTCOMES[rating],
            rating=rating,
            threshold=self.to_pass,
            found=found,
            measured=_measured(evidence),
            samples=tuple(pair.sample for pair in sorted(pairs, key=lambda pair: pair.rank)[:_SHOWN]),
        )


@dataclass(frozen=True)
class _Pair:
    task: AnsweredTask
    answer: str

    @property
    def before(self) -> bool:
        return self.task.is_right(self.task.original or "")

    @property
    def after(self) -> bool:
        return self.task.is_right(self.answer)

    @property
    def rank(self) -> int:
        """What readers want to see first: what was lost, then what was won."""
        return [(True, False), (False, True), (False, False), (True, True)].index((self.before, self.after))

    @property
    def sample(self) -> Sample:
        notes = ("lost by the candidate", "won by the candidate", "wrong before and after", "right before and after")
        return Sample(
            prompt=self.task.prompt,
            answer=self.answer,
            expected=self.task.expected,
            expected_from=f"expected ({self.task.judge})",
            original=self.task.original,
            ok=self.rank != 0,
            note=notes[self.rank],
        )


def _fits(task: AnsweredTask, trial: Trial) -> bool:
    if task.original is None or task.chat != trial.chat:
        return False
    fits_input = trial.max_input_len is None or task.prompt_tokens <= trial.max_input_len
    return fits_input and (trial.max_seq_len is None or task.prompt_tokens + task.max_tokens <= trial.max_seq_len)


def _counts(pairs: Sequence[_Pair]) -> str:
    lost, won = (sum(pair.rank == rank for pair in pairs) for rank in (0, 1))
    before, after = sum(pair.before for pair in pairs), sum(pair.after for pair in pairs)
    return f"{before} of {len(pairs)} right before, {after} after: {lost} lost, {won} won"


def _measured(evidence: Evidence) -> dict[str, float]:
    if evidence.pairs < 2:
        return {}
    (before, after), (low, high) = evidence.scores, evidence.interval
    return {
        "tasks_right_before": before,
        "tasks_right_after": after,
        "damage": evidence.damage,
        "damage_low": low,
        "damage_high": high,
    }
