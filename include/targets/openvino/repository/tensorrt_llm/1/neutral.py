"""Fields of upstream's clients for which this engine has nothing: taken with the value that asks for nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from options import InvalidRequest


class Neutral(NamedTuple):
    """The values of a field that ask for nothing, and what any other value would ask for."""

    values: tuple[object, ...]
    asks_for: str


_ONE_BEAM = "beam search"
FIELDS = {
    "beam_width": Neutral((1,), _ONE_BEAM),
    # Upstream's default is 0, that of its users' clients 1.
    "len_penalty": Neutral((1, 0), _ONE_BEAM),
    "length_penalty": Neutral((1, 0), _ONE_BEAM),
    "early_stopping": Neutral((False,), _ONE_BEAM),
    "beam_search_diversity_rate": Neutral((0,), _ONE_BEAM),
    "num_return_sequences": Neutral((1,), "several answers to one prompt"),
    "return_log_probs": Neutral((False,), "log probabilities"),
    "return_context_logits": Neutral((False,), "logits"),
    "return_generation_logits": Neutral((False,), "logits"),
    "return_perf_metrics": Neutral((False,), "metrics of single requests"),
    "stop": Neutral((False,), "stop requests: cancel the request itself instead"),
    "decoder_text_input": Neutral((b"",), "encoder-decoder models"),
    "embedding_bias_words": Neutral((b"",), "biased words"),
    "embedding_bias_weights": Neutral((0,), "biased words"),
    "prompt_vocab_size": Neutral((0,), "prompt tuning"),
    "prompt_table_extra_id": Neutral((0,), "prompt tuning"),
    "lora_task_id": Neutral((0,), "LoRA"),
    "guided_decoding_guide_type": Neutral((b"",), "guided decoding"),
    "guided_decoding_guide": Neutral((b"",), "guided decoding"),
}


def check(name: str, given: Sequence[object]) -> None:
    """Raises `InvalidRequest` unless all values that a request gives for a field ask for nothing."""
    values, asks_for = FIELDS[name]
    if all(value in values for value in given):
        return
    neutral = " or ".join(_written(value) for value in values)
    raise InvalidRequest(f"{name} must be {neutral}, or left out: this engine has no {asks_for}")


def _written(value: object) -> str:
    return '""' if isinstance(value, bytes) else str(value).lower()
