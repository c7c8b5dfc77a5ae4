"""What a request may ask of the engine, and how OpenVINO GenAI is told."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass

import openvino_genai as genai
from compiler import max_states
from grammar import TooManyWords, grammar_without

_NOT_NEGATIVE = ("max_tokens", "min_tokens", "top_k", "top_p", "temperature", "seed")
_NUMBERS = ("top_p", "temperature", "repetition_penalty", "presence_penalty", "frequency_penalty")
_PENALTIES = ("presence_penalty", "frequency_penalty")


class InvalidRequest(Exception):
    """The client's fault: only this request fails, with HTTP 400."""


@dataclass(frozen=True)
class Options:
    """One answer's options under upstream's names; None where the request left one out.

    Without ``top_k`` and ``top_p`` decoding is greedy, as upstream, whatever the temperature.
    """

    max_tokens: int
    end_id: int | None = None
    top_k: int | None = None
    top_p: float | None = None
    temperature: float | None = None
    repetition_penalty: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    min_tokens: int | None = None
    seed: int | None = None

    @property
    def samples(self) -> bool:
        """Whether tokens are drawn at random rather than the most probable taken."""
        if self.temperature == 0 or self.top_k == 1:
            return False
        return bool(self.top_k) or bool(self.top_p)

    def generation_config(
        self,
        bad_words: Collection[str] = (),
        vocab_size: int = 1000,
        end_ids: frozenset[int] = frozenset(),
        missing: Collection[int] = (),
    ) -> genai.GenerationConfig:
        """GenAI's form; raises `InvalidRequest` for values outside GenAI's limits, and words beyond `max_states`.

        ``end_ids`` are the model's own end tokens: each ends an answer unless ``end_id`` is none of them. ``missing``
        are the ids that stand for no token; the graph itself keeps them out of answers.
        """
        self._check()
        config = genai.GenerationConfig()
        self._set_lengths(config, end_ids)
        self._set_sampling(config)
        for name in ("repetition_penalty", "presence_penalty", "frequency_penalty"):
            value = getattr(self, name)
            if value is not None:
                setattr(config, name, value)
        if bad_words:
            config.structured_output_config = genai.StructuredOutputConfig(grammar=_grammar(bad_words, vocab_size))
        _validate(config)
        return config

    def _check(self) -> None:
        """Refuses what GenAI would not look at, or not name."""
        for name in _NUMBERS:
            if not math.isfinite(getattr(self, name) or 0):
                raise InvalidRequest(f"{name} must be a number")
        for name in _NOT_NEGATIVE:
            if (getattr(self, name) or 0) < 0:
                raise InvalidRequest(f"{name} must not be negative")
        for name in _PENALTIES:
            if abs(getattr(self, name) or 0) > 2:
                raise InvalidRequest(f"{name} must be from -2 to 2")
        if (self.top_p or 0) > 1:
            raise InvalidRequest("top_p must not be above 1")
        if self.repetition_penalty is not None and self.repetition_penalty <= 0:
            raise InvalidRequest("repetition_penalty must be above 0")
        if (self.min_tokens or 0) > self.max_tokens:
            raise InvalidRequest(f"min_tokens {self.min_tokens} must not be above max_tokens {self.max_tokens}")

    def _set_lengths(self, config: genai.GenerationConfig, end_ids: frozenset[int]) -> None:
        config.max_new_tokens = self.max_tokens
        if self.min_tokens is not None:
            config.min_new_tokens = self.min_tokens
        ends = end_ids if self.end_id is None or self.end_id in end_ids else {one for one in [self.end_id] if one >= 0}
        if ends:
            config.set_eos_token_id(min(ends))
            config.stop_token_ids = set(ends)
        else:
            config.ignore_eos = True

    def _set_sampling(self, config: genai.GenerationConfig) -> None:
        config.do_sample = self.samples
        config.rng_seed = self.seed or 0
        if self.samples:
            config.temperature = 1.0 if self.temperature is None else self.temperature
            config.top_p = self.top_p or 1.0
            config.top_k = self.top_k or 0


def _grammar(bad_words: Collection[str], vocab_size: int) -> str:
    try:
        return grammar_without(bad_words, max_states(vocab_size))
    except TooManyWords as error:
        raise InvalidRequest(str(error)) from error


def _validate(config: genai.GenerationConfig) -> None:
    try:
        config.validate()
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1]
        raise InvalidRequest(reason) from error
