"""Gate ``quality``: what quantization did to the model, by its perplexity on held-out text."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from include.gates import reference
from include.gates.base import Gate, Trial
from include.gates.verdict import GateResult

Rating = Literal["ACCEPT", "REGRESSION", "ANOMALOUS"]


@dataclass(frozen=True)
class Quality(
    Gate,
    name="quality",
    threshold="perplexity rises by {max_increase:.0%} at most and does not fall by more than {max_decrease:.0%}; "
    "every held-out sample counts",
):
    """Perplexity after against before: accepted, a regression, or anomalous.

    ``max_increase`` and ``max_decrease`` are shares of the perplexity before. What is usual: SmolLM2-135M in groups
    of 64 rises by 0.21 (11.69 -> 14.15, 12.05 -> 14.68 here); Llama-2-7B and 13B in groups of 128 by 0.024 and 0.018
    (5.47 -> 5.60, 4.88 -> 4.97: AWQ, arXiv 2306.00978, table 4), so 0.05 is a better limit for such a model.
    Rounding weights loses information: a perplexity that falls by more than noise says that before and after were
    not measured alike. So does a sample or token that is not accounted for, or a value that is no number.
    """

    max_increase: float = 0.3
    max_decrease: float = 0.02

    def judge(self, trial: Trial) -> GateResult:
        """Reads the reference; asks nothing of the endpoint."""
        if trial.reference is None or trial.reference.quality is None:
            return self.skip("calibration measured no quality")
        quality = trial.reference.quality
        rating, reason = self._rate(quality, trial.reference.held_out)
        scored = f"{quality.tokens} tokens in {quality.samples} samples"
        found = f"perplexity {quality.before:.2f} -> {quality.after:.2f} ({quality.increase:+.1%}) on {scored}{reason}"
        figures = {"perplexity_before": quality.before, "perplexity_after": quality.after, "increase": quality.increase}
        measured = {name: value for name, value in figures.items() if math.isfinite(value)}
        return self.verdict(rating == "ACCEPT", found, rating=rating, measured=measured)

    def _rate(self, quality: reference.Quality, held_out: reference.HeldOut | None) -> tuple[Rating, str]:
        if reason := _unaccounted(quality, held_out):
            return "ANOMALOUS", f": {reason}"
        if quality.increase < -self.max_decrease:
            return "ANOMALOUS", ": rounding weights cannot make a model better"
        # Written so that nothing but a number within the limit is accepted.
        return ("ACCEPT", "") if quality.increase <= self.max_increase else ("REGRESSION", "")


def _unaccounted(quality: reference.Quality, held_out: reference.HeldOut | None) -> str:
    """Why the figures cannot be those of the whole text; empty if they can."""
    # A model that is certain of each token has perplexity 1.
    if not all(1 <= value < math.inf for value in (quality.before, quality.after)):
        return "not a perplexity"
    if quality.samples < 1 or quality.tokens < 1:
        return "nothing was scored"
    if held_out is None:
        return "the held-out text is missing"
    if (quality.samples, quality.tokens) != (held_out.samples, held_out.tokens):
        return f"the held-out text has {held_out.tokens} tokens to score in {held_out.samples} samples"
    return "" if quality.text_sha256 == held_out.text_sha256 else "measured on another text than the held-out one"
