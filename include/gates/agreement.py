"""Gates that hold the endpoint's answers against the checkpoint's own, prompt by prompt.

The reference was made by PyTorch from the very weights that the engine holds, so a faithful engine says the
same until two tokens are nearly as probable.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Literal

from include.gates.base import Continued, Gate, Trial
from include.gates.tokens import Split, Tokens, common_prefix
from include.gates.verdict import GateResult, Sample

_NOTHING_TO_COMPARE = "no reference in the form that the endpoint uses and within its limits"


@dataclass(frozen=True)
class Agreement(
    Gate,
    name="agreement",
    threshold="of the first {first} tokens of all answers a share >= {min_share:g} is the checkpoint's",
):
    """The first tokens of each answer are those of the checkpoint.

    ``first`` tokens of each answer are compared, as the checkpoint's tokenizer splits both texts; ``min_share`` is
    the least share of all of them that come before the first difference. With SmolLM2-135M on the CPU, in the chat
    template and without it, the share is 1.00 and 0.90 for a good engine (one answer parts at a near tie), 0.29 and
    0.40 with the mildest fault known, rotary base 10 000 instead of 100 000 (perplexity up by 14 %), 0.02 where the
    scales of one layer of 30 are shuffled, 0.00 with all of them or another tokenizer's ids.
    """

    min_share: float = 0.65
    first: int = 16

    def judge(self, trial: Trial) -> GateResult:
        """Compares every answer to which the checkpoint's is not empty."""
        continued = [c for c in trial.continued if c.known.after_text.strip()]
        if not continued:
            return self.skip(_NOTHING_TO_COMPARE)
        known = [trial.split(c.known.after_text)[: self.first] for c in continued]
        equal = [common_prefix(trial.split(c.text), tokens) for c, tokens in zip(continued, known, strict=True)]
        lengths = [len(tokens) for tokens in known]
        share = sum(equal) / sum(lengths)
        return self.verdict(
            share >= self.min_share,
            f"{share:.2f}: {sum(equal)} of {sum(lengths)} tokens of {len(continued)} answers",
            measured={"equal_share": share},
            samples=tuple(map(self._sample, continued, equal, lengths)),
        )

    def _sample(self, continued: Continued, equal: int, length: int) -> Sample:
        share = equal / length
        return continued.sample.model_copy(update={"score": share, "ok": share >= self.min_share})


End = Literal["same", "early", "late", "other"]


class EndToken(
    Gate, name="end_token", threshold="fewer than half of the answers end early or late, and none shows a special token"
):
    """Answers end where the checkpoint's do, and the token that ends them is not shown.

    An answer that is only the start of the checkpoint's has ended early, one that says all of it and goes on has ended
    late. One that differs says nothing about its end. An engine that ends wrongly always does; a near tie at the end
    of one answer is nobody's fault, so most answers decide.
    """

    def judge(self, trial: Trial) -> GateResult:
        """Looks at the ends of all answers."""
        leaks = [token for token in trial.special_texts if any(token in c.text for c in trial.continued)]
        if leaks:
            samples = tuple(c.sample for c in trial.continued if any(token in c.text for token in leaks))
            return self.verdict(False, f"special tokens in answers: {', '.join(leaks)}", samples=samples)
        ends = [(c, _end(c)) for c in trial.continued]
        if all(end == "other" for _, end in ends):
            return self.skip("no answer says what the checkpoint says" if ends else _NOTHING_TO_COMPARE)
        early, late = (_share(end, ends) for end in ("early", "late"))
        if any(c.known.after_ended for c, end in ends if end != "other"):
            found = f"{early:.0%} end early, {late:.0%} of those that should end go on"
        else:
            found = f"{early:.0%} end early; no answer of the checkpoint's ends, so none can go on where it should end"
        return self.verdict(
            max(early, late) < 0.5,
            found,
            measured={"early": early, "late": late},
            samples=tuple(_ended(c, end) for c, end in ends),
        )


@dataclass(frozen=True)
class Repetition(
    Gate,
    name="repetition",
    threshold="share of repeated 4-token sequences <= the checkpoint's + {max_excess:g} on average",
):
    """Answers do not go round in circles where the checkpoint's do not.

    The measure is seq-rep-4 (Welleck et al. 2020, arXiv 1908.04319): the share of an answer's sequences of four
    tokens that it has said before. ``max_excess`` is by how much the candidate's may be above the checkpoint's own,
    on average over the prompts: small models repeat themselves (one held-out text has 0.53 of its own). With
    SmolLM2-135M a good engine's excess is 0.00 to 0.01, that of one with another tokenizer's ids 0.35 to 0.40, and
    that of an answer of one token again and again about 0.9.
    """

    max_excess: float = 0.25

    def judge(self, trial: Trial) -> GateResult:
        """Compares the repeated shares."""
        if not trial.continued:
            return self.skip(_NOTHING_TO_COMPARE)
        samples = tuple(self._sample(c, trial.split) for c in trial.continued)
        excess = fmean(sample.score or 0 for sample in samples)
        return self.verdict(
            excess <= self.max_excess,
            f"{excess:+.2f} on average of {len(samples)} prompts",
            measured={"excess": excess},
            samples=samples,
        )

    def _sample(self, continued: Continued, split: Split) -> Sample:
        ours, known = (repeated_share(split(text)) for text in (continued.text, continued.known.after_text))
        return continued.sample.model_copy(
            update={"score": ours - known, "ok": ours - known <= self.max_excess, "note": f"{ours:.2f} repeated"}
        )


def repeated_share(tokens: Tokens, length: int = 4) -> float:
    """seq-rep-n: the share of sequences of ``length`` tokens that came before; 0 for a text that is too short."""
    sequences = [tuple(tokens[start : start + length]) for start in range(len(tokens) - length + 1)]
    return 1 - len(set(sequences)) / len(sequences) if sequences else 0.0


def _end(continued: Continued) -> End:
    # A character that the last token began may be shown as a replacement or not at all.
    text, known = (_settled(text) for text in (continued.text, continued.known.after_text))
    if text == known:
        return "same"
    if known.startswith(text):
        return "early"
    return "late" if text.startswith(known) else "other"


def _share(wrong: End, ends: Sequence[tuple[Continued, End]]) -> float:
    """The share of answers that ended in this way, of those that could."""
    could: list[End] = [end for c, end in ends if end != "other" and (wrong == "early" or c.known.after_ended)]
    return could.count(wrong) / len(could) if could else 0.0


def _settled(text: str) -> str:
    return text.rstrip("\N{REPLACEMENT CHARACTER}").strip()


def _ended(continued: Continued, end: End) -> Sample:
    notes = {"same": "", "early": "ends early", "late": "goes on", "other": "differs before its end"}
    return continued.sample.model_copy(update={"ok": end in ("same", "other"), "note": notes[end]})
