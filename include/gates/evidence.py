"""The rule of NVIDIA's ``nel gate`` for paired answers: GO, NO-GO or INCONCLUSIVE (NeMo Evaluator, engine/gate.py).

Damage is the share of tasks that the original got right and the candidate did not, less the share of the opposite. The
limits are policies, not tests of significance: NO-GO says that the damage is beyond the limit, not that there is any.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist, fmean, stdev
from typing import Literal

Verdict = Literal["GO", "NO-GO", "INCONCLUSIVE"]
LEAST_PAIRS = 10
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Policy:
    """The limits, as shares. The relative one holds only where the original's score is below ``guard_below``."""

    max_drop: float
    max_relative_drop: float
    guard_below: float


@dataclass(frozen=True)
class Evidence:
    """Two models' answers to the same tasks, in pairs: True where one was right."""

    original: Sequence[bool]
    candidate: Sequence[bool]

    @property
    def pairs(self) -> int:
        """The number of tasks that both were asked."""
        return len(self.original)

    @property
    def scores(self) -> tuple[float, float]:
        """The shares of right answers: the original's and the candidate's."""
        return fmean(self.original), fmean(self.candidate)

    @property
    def damage(self) -> float:
        """By how much the candidate's share is lower; negative if it is higher."""
        before, after = self.scores
        return before - after

    @property
    def interval(self) -> tuple[float, float]:
        """The damage's confidence interval, by Student's distribution over the pairs' differences."""
        losses = [known - found for known, found in zip(self.original, self.candidate, strict=True)]
        width = student(CONFIDENCE, self.pairs - 1) * stdev(losses) / math.sqrt(self.pairs)
        return self.damage - width, self.damage + width


def judge(evidence: Evidence, policy: Policy) -> tuple[Verdict, str]:
    """The verdict and its reason."""
    if evidence.pairs < LEAST_PAIRS:
        return "INCONCLUSIVE", f"only {evidence.pairs} tasks in pairs, {LEAST_PAIRS} are the least"
    before, _ = evidence.scores
    guarded = before < policy.guard_below or policy.guard_below >= 1
    if guarded and before and evidence.damage / before > policy.max_relative_drop:
        return "NO-GO", f"{evidence.damage / before:.1%} of the original's score are lost"
    low, high = evidence.interval
    said = f"95 % interval of the damage {low:+.3f} to {high:+.3f}"
    if low > policy.max_drop:
        return "NO-GO", f"{said}: beyond {policy.max_drop:g}"
    if high <= policy.max_drop:
        return "GO", f"{said}: within {policy.max_drop:g}"
    return "INCONCLUSIVE", f"{said}: {policy.max_drop:g} lies in it"


def student(confidence: float, freedom: int) -> float:
    """The two-sided quantile of Student's t, by the expansion in the normal one (Abramowitz and Stegun, 26.7.5).

    From 9 degrees of freedom on it is exact to four digits.
    """
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return z + sum(term / float(freedom) ** power for power, term in enumerate(terms, start=1))
