"""The base of all gates, and the trial that they judge."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from include.gates.answered import AnsweredTask
from include.gates.reference import Continuation, Reference
from include.gates.tokens import Split, special_texts, splitter
from include.gates.verdict import GateResult, Outcome, Report, Sample
from include.requests.release import SEED_PROMPT
from include.triton.client import Client, Endpoint, NoAnswer

# How far an answer may run beyond the checkpoint's, to see whether it does.
OVERRUN = 16
# A whole word after white space: many tokenizers make one token of a mark and the letters behind it.
_WORD = re.compile(r"(?<=\s)[A-Za-z]{3,}(?!\w)")


@dataclass(frozen=True)
class Continued:
    """The candidate's continuation of a prompt beside the checkpoint's."""

    known: Continuation
    text: str

    @property
    def sample(self) -> Sample:
        """Both answers, side by side."""
        return Sample(
            prompt=self.known.prompt,
            answer=self.text,
            expected=self.known.after_text,
            expected_from="checkpoint",
            original=self.known.before_text,
        )


@dataclass(frozen=True)
class Trial:
    """The subject of the gates: a candidate's endpoint, and the reference that its answers are held against.

    ``chat``: True if the endpoint puts prompts into the model's chat template. ``max_input_len`` and
    ``max_seq_len`` are its limits in tokens, ``repository`` the model repository that it was started on,
    ``tokenizer`` the checkpoint's tokenizer directory, ``live`` the server of the release that is live now; None
    where not known. ``tasks`` are those that the original model has answered. Answers that several gates look at are
    asked for once.
    """

    client: Client
    prompts: tuple[str, ...]
    streaming: bool
    chat: bool = False
    reference: Reference | None = None
    repository: Path | None = None
    tokenizer: Path | None = None
    live: Endpoint | None = None
    max_input_len: int | None = None
    max_seq_len: int | None = None
    tasks: tuple[AnsweredTask, ...] = ()

    @cached_property
    def split(self) -> Split:
        """Text to tokens."""
        return splitter(self.tokenizer)

    @cached_property
    def special_texts(self) -> tuple[str, ...]:
        """The texts of the special tokens, such as the end token. No answer may hold one."""
        return special_texts(self.tokenizer)

    @cached_property
    def comparable(self) -> tuple[Continuation, ...]:
        """The reference's continuations in the endpoint's form (chat or raw) that fit its limits."""
        known = self.reference.continuations if self.reference else ()
        return tuple(c for c in known if c.chat == self.chat and self._fits(c))

    @cached_property
    def continued(self) -> tuple[Continued, ...]:
        """The comparable prompts with the candidate's answers. Raises `NoAnswer`."""
        return tuple(
            Continued(known, self.client.text(known.prompt, max_tokens=_limit(known))) for known in self.comparable
        )

    @cached_property
    def wordy(self) -> tuple[str, str, re.Match[str]] | None:
        """A prompt, its answer, and a word in it, the first that is not at its start. Raises `NoAnswer`."""
        for prompt in (*self.prompts, *(known.prompt for known in self.comparable)):
            answer = self.client.text(prompt)
            for word in _WORD.finditer(answer):
                if answer[: word.start()].strip() and word[0] not in answer[: word.start()]:
                    return prompt, answer, word
        return None

    @property
    def talking_point(self) -> str:
        """A prompt that gets an answer, if there is one."""
        return self.wordy[0] if self.wordy else SEED_PROMPT

    def may_be_empty(self, prompt: str) -> bool:
        """True if the checkpoint's own answer to ``prompt`` is empty."""
        known = self.reference.continuations if self.reference else ()
        return any(c.prompt == prompt and c.chat == self.chat and not c.after_text.strip() for c in known)

    def _fits(self, known: Continuation) -> bool:
        prompt = len(known.prompt_ids)
        fits_input = self.max_input_len is None or prompt <= self.max_input_len
        return fits_input and (self.max_seq_len is None or prompt + _limit(known) <= self.max_seq_len)


class Gate(ABC):
    """One question about a candidate. Its dataclass fields are its limits, which ``threshold`` may name in braces.

    A gate asks the endpoint and lets `NoAnswer` pass: `validate` makes a failure of it.
    """

    name: ClassVar[str]
    threshold: ClassVar[str]

    def __init_subclass__(cls, *, name: str, threshold: str = "") -> None:
        cls.name, cls.threshold = name, threshold

    @property
    def to_pass(self) -> str:
        """The condition in words, with the limits."""
        return self.threshold.format_map(vars(self))

    @abstractmethod
    def judge(self, trial: Trial) -> GateResult:
        """Looks at the candidate; raises `NoAnswer` if it does not answer."""

    def verdict(self, good: bool, found: str, **evidence: Any) -> GateResult:  # noqa: ANN401 - fields of Verdict
        """The result of a gate that was tried: pass or fail."""
        outcome: Outcome = "pass" if good else "fail"
        return GateResult(gate=self.name, outcome=outcome, threshold=self.to_pass, found=found, **evidence)

    def skip(self, reason: str) -> GateResult:
        """The result of a gate that cannot be tried here."""
        return GateResult(gate=self.name, outcome="skip", threshold=self.to_pass, found=reason)


def validate(trial: Trial, gates: Sequence[Gate], told: Callable[[GateResult], None] = lambda verdict: None) -> Report:
    """Tries every gate; a gate that fails does not keep the others from being tried. ``told`` gets each verdict."""
    verdicts = []
    for gate in gates:
        verdicts.append(_judge(gate, trial))
        told(verdicts[-1])
    quality = trial.reference.quality if trial.reference else None
    return Report(verdicts=tuple(verdicts), endpoint=trial.client.endpoint, quality=quality, answers=_answers(trial))


def _judge(gate: Gate, trial: Trial) -> GateResult:
    try:
        return gate.judge(trial)
    except NoAnswer as error:
        return gate.verdict(False, str(error))


def _answers(trial: Trial) -> tuple[Sample, ...]:
    try:
        return tuple(continued.sample for continued in trial.continued)
    except NoAnswer:
        return ()


def _limit(known: Continuation) -> int:
    return max(1, len(known.after_ids) + OVERRUN * known.after_ended)
