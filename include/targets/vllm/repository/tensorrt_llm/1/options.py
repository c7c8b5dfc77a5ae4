"""What a request may ask of the engine, and how vLLM is told."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

_NOT_NEGATIVE = ("max_tokens", "min_tokens", "top_k", "top_p", "temperature", "seed")
_NEVER = -1e4
"""Added to a logit, it leaves the token no probability."""
_NUMBERS = ("top_p", "temperature", "repetition_penalty", "presence_penalty", "frequency_penalty")


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
    ) -> Any:  # noqa: ANN401
        """vLLM's ``SamplingParams``; raises `InvalidRequest` for values outside vLLM's limits.

        ``end_ids`` are the model's own end tokens: each ends an answer unless ``end_id`` is none of them. ``missing``
        are the ids that stand for no token, which no answer may have.
        """
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        self._check()
        try:
            return SamplingParams(
                **self._lengths(end_ids),
                **self._sampling(),
                bad_words=list(bad_words),
                logit_bias=dict.fromkeys(missing, _NEVER) or None,
                detokenize=False,
                output_kind=RequestOutputKind.DELTA,
            )
        except ValueError as error:
            raise InvalidRequest(str(error)) from error

    def _check(self) -> None:
        """Refuses what vLLM would not look at, or not name."""
        for name in _NUMBERS:
            if not math.isfinite(getattr(self, name) or 0):
                raise InvalidRequest(f"{name} must be a number")
        for name in _NOT_NEGATIVE:
            if (getattr(self, name) or 0) < 0:
                raise InvalidRequest(f"{name} must not be negative")

    def _lengths(self, end_ids: frozenset[int]) -> dict[str, Any]:
        ends = end_ids if self.end_id is None or self.end_id in end_ids else {one for one in [self.end_id] if one >= 0}
        return {
            "max_tokens": self.max_tokens,
            "min_tokens": self.min_tokens or 0,
            "stop_token_ids": sorted(ends),
            # Else vLLM would add those of the generation config, whatever the request names.
            "ignore_eos": True,
        }

    def _sampling(self) -> dict[str, Any]:
        names = ("repetition_penalty", "presence_penalty", "frequency_penalty", "seed")
        given = {name: getattr(self, name) for name in names if getattr(self, name) is not None}
        if not self.samples:
            return {**given, "temperature": 0.0}
        temperature = 1.0 if self.temperature is None else self.temperature
        return {**given, "temperature": temperature, "top_p": self.top_p or 1.0, "top_k": self.top_k or 0}
