"""What a request may ask of the engine, and how OpenVINO GenAI is told."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import openvino_genai as genai
from grammar import grammar_without


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

    def generation_config(self, bad_words: Collection[str] = ()) -> genai.GenerationConfig:
        """GenAI's form; raises `InvalidRequest` for values outside GenAI's limits."""
        for name in ("max_tokens", "min_tokens", "top_k", "seed"):
            if (getattr(self, name) or 0) < 0:
                raise InvalidRequest(f"{name} must not be negative")
        config = genai.GenerationConfig()
        self._set_lengths(config)
        self._set_sampling(config)
        for name in ("repetition_penalty", "presence_penalty", "frequency_penalty"):
            value = getattr(self, name)
            if value is not None:
                setattr(config, name, value)
        if bad_words:
            grammar = grammar_without(bad_words)
            config.structured_output_config = genai.StructuredOutputConfig(grammar=grammar)
        _validate(config)
        return config

    def _set_lengths(self, config: genai.GenerationConfig) -> None:
        config.max_new_tokens = self.max_tokens
        if self.min_tokens is not None:
            config.min_new_tokens = self.min_tokens
        if self.end_id is None or self.end_id < 0:
            config.ignore_eos = True
        else:
            config.set_eos_token_id(self.end_id)

    def _set_sampling(self, config: genai.GenerationConfig) -> None:
        config.do_sample = self.samples
        config.rng_seed = self.seed or 0
        if self.samples:
            config.temperature = 1.0 if self.temperature is None else self.temperature
            config.top_p = self.top_p or 1.0
            config.top_k = self.top_k or 0


def _validate(config: genai.GenerationConfig) -> None:
    try:
        config.validate()
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1]
        raise InvalidRequest(reason) from error
