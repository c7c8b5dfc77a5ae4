"""Gates that ask something small and look at the answer: the endpoint keeps its promises."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from statistics import fmean
from typing import ClassVar

from include.gates.base import Gate, Trial
from include.gates.tokens import common_prefix
from include.gates.verdict import GateResult, Sample, shown
from include.requests.release import SEED_PROMPT
from include.triton.client import NoAnswer

SEED = 20


class SeedRequest(Gate, name="seed_request", threshold="the answer is not empty"):
    """The request that this pipeline exists to answer, letter by letter."""

    def judge(self, trial: Trial) -> GateResult:
        """Sends the request."""
        body = {"text_input": SEED_PROMPT, "parameters": {"max_tokens": 100, "bad_words": [""], "stop_words": [""]}}
        return _none_empty(self, trial, [(SEED_PROMPT, str(trial.client.generate(body)["text_output"]))])


class TestPrompts(Gate, name="test_prompts", threshold="no answer is empty, unless the checkpoint's own is"):
    """The user's own prompts, and those of the reference."""

    __test__: ClassVar[bool] = False  # pytest takes it for tests by its name

    def judge(self, trial: Trial) -> GateResult:
        """Sends each prompt."""
        answers = [(prompt, trial.client.text(prompt)) for prompt in trial.prompts]
        answers += [(c.known.prompt, c.text) for c in trial.continued if c.known.prompt not in trial.prompts]
        return _none_empty(self, trial, answers)


class SameOverGrpc(Gate, name="same_over_grpc", threshold="tritonclient gets the same answer"):
    """The same answer through tritonclient."""

    def judge(self, trial: Trial) -> GateResult:
        """Asks over HTTP and over gRPC."""
        prompt = trial.talking_point
        http, grpc = trial.client.text(prompt), trial.client.grpc_text(prompt)
        return _same(self, prompt, http, grpc, "gRPC")


class MaxTokens(Gate, name="max_tokens", threshold="no answer has more tokens than max_tokens"):
    """No answer is longer than asked for, by the endpoint's own count."""

    def judge(self, trial: Trial) -> GateResult:
        """Asks for one token, and for eight."""
        counts = {}
        for limit in (1, 8):
            body = {"text_input": trial.talking_point, "max_tokens": limit, "return_num_output_tokens": True}
            counts[limit] = int(trial.client.generate(body)["num_output_tokens"])
        kept = all(count <= limit for limit, count in counts.items())
        return self.verdict(kept, ", ".join(f"{count} tokens for {limit}" for limit, count in counts.items()))


class StopWord(Gate, name="stop_word", threshold="the answer ends at the stop word"):
    """An answer ends with (as upstream's do) or before a stop word taken from it."""

    def judge(self, trial: Trial) -> GateResult:
        """Takes a word of an answer for a stop word."""
        if trial.wordy is None:
            return self.skip("no answer holds a word to stop at")
        prompt, whole, word = trial.wordy
        stopped = trial.client.text(prompt, stop_words=_both_forms(word[0]))
        kept = stopped.rstrip() in {whole[: word.start()].rstrip(), whole[: word.end()]}
        sample = Sample(prompt=prompt, answer=stopped, expected=whole, expected_from="without a stop word", ok=kept)
        return self.verdict(kept, f"with stop word {word[0]!r}: {shown(stopped)}", samples=(sample,))


class BadWord(Gate, name="bad_word", threshold="the answer does not hold the bad word"):
    """A word of an answer does not come again once it is banned."""

    def judge(self, trial: Trial) -> GateResult:
        """Bans a word of an answer."""
        if trial.wordy is None:
            return self.skip("no answer holds a word to ban")
        prompt, whole, word = trial.wordy
        try:
            without = trial.client.text(prompt, bad_words=_both_forms(word[0]))
        except NoAnswer as error:
            if error.refused:
                return self.skip(f"the endpoint refuses bad words: {error}")
            raise
        kept = re.search(rf"\b{word[0]}\b", without) is None
        sample = Sample(prompt=prompt, answer=without, expected=whole, expected_from="without a bad word", ok=kept)
        return self.verdict(kept, f"with bad word {word[0]!r}: {shown(without)}", samples=(sample,))


@dataclass(frozen=True)
class Deterministic(
    Gate,
    name="deterministic",
    threshold="two of {alone} answers at top_k 1 alone are the same, equal first tokens beside {company} others "
    ">= {min_share:g}",
):
    """The most probable answer, with a seed, is the same again, and much the same in company.

    A GPU picks other kernels for another batch size, and for a prompt that it has in its cache: an answer may part
    from itself at a near tie. Alone only the first one may; an engine that draws its tokens gives another each time.
    In company an engine that mixes up its requests parts at once. ``min_share`` is the mean share of equal first
    tokens there (1 on the CPU with precision exact, 0.66 with fast).
    """

    alone: int = 3
    company: int = 4
    min_share: float = 0.5

    def judge(self, trial: Trial) -> GateResult:
        """Asks the same alone, then among others."""
        prompt = trial.talking_point
        answers = [_seeded(trial, prompt) for _ in range(self.alone)]
        ((usual, count),) = Counter(reversed(answers)).most_common(1)
        asked = [prompt, *(other for other in (SEED_PROMPT, *trial.prompts) if other != prompt)]
        prompts = [asked[number % len(asked)] for number in range(2 * self.company)]
        with ThreadPoolExecutor(self.company) as pool:
            beside = list(pool.map(lambda text: _seeded(trial, text), prompts))
        together = [answer for text, answer in zip(prompts, beside, strict=True) if text == prompt]
        share = fmean(_equal_share(trial, usual, answer) for answer in together)
        different = sorted({*answers, *together} - {usual})
        return self.verdict(
            count > 1 and share >= self.min_share,
            f"{count} of {self.alone} the same alone, equal share in company {share:.2f}",
            measured={"equal_share_in_company": share},
            samples=tuple(_sample(prompt, other, usual, "usual answer") for other in different),
        )


class Streaming(Gate, name="streaming", threshold="the pieces, joined, are the answer"):
    """The streamed pieces, joined, are the answer."""

    def judge(self, trial: Trial) -> GateResult:
        """Asks with and without streaming."""
        if not trial.streaming:
            return self.skip("the release does not stream")
        prompt = trial.talking_point
        pieces, whole = trial.client.stream(prompt), trial.client.text(prompt)
        if len(pieces) < 2 and whole:
            return self.verdict(False, f"{len(pieces)} piece for {shown(whole)}")
        return _same(self, prompt, "".join(pieces), whole, "in one")


def _seeded(trial: Trial, prompt: str) -> str:
    return trial.client.text(prompt, seed=SEED)


def _equal_share(trial: Trial, one: str, other: str) -> float:
    first, second = trial.split(one), trial.split(other)
    longest = max(len(first), len(second))
    return common_prefix(first, second) / longest if longest else 1.0


def _same(gate: Gate, prompt: str, answer: str, expected: str, source: str) -> GateResult:
    sample = _sample(prompt, answer, expected, source)
    found = "the same" if sample.ok else f"{shown(answer)}, {source}: {shown(expected)}"
    return gate.verdict(sample.ok, found, samples=(sample,))


def _sample(prompt: str, answer: str, expected: str, source: str) -> Sample:
    return Sample(prompt=prompt, answer=answer, expected=expected, expected_from=source, ok=answer == expected)


def _none_empty(gate: Gate, trial: Trial, answers: Iterable[tuple[str, str]]) -> GateResult:
    samples = tuple(_answered(trial, prompt, answer) for prompt, answer in answers)
    empty = [shown(sample.prompt) for sample in samples if not sample.ok]
    found = f"nothing to say to {', '.join(empty)}" if empty else f"{len(samples)} answered"
    return gate.verdict(not empty, found, samples=samples)


def _answered(trial: Trial, prompt: str, answer: str) -> Sample:
    if answer.strip():
        return Sample(prompt=prompt, answer=answer)
    known = trial.may_be_empty(prompt)
    return Sample(prompt=prompt, answer=answer, ok=known, note="the checkpoint itself ends at once here" * known)


def _both_forms(word: str) -> list[str]:
    """A word with and without a space before it: upstream compares tokens, and these differ."""
    return [word, f" {word}"]
