"""A model's vocabulary: the ids that stand for a token, of all those that it has weights for.

Repositories pad the weights to a round number of ids, and some leave gaps. An id without a token has no text: no
answer may have it, and no prompt.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch  # noqa: TID253 - runs only in a target's environment

_NEVER = torch.finfo(torch.float16).min
"""A logit that no sampling comes to, in each type that engines compute in; infinities would not pass all of them."""


@dataclass(frozen=True)
class Vocabulary:
    """The ids below ``size`` but for those ``missing``. The ids beyond are no part of a checkpoint."""

    size: int
    missing: tuple[int, ...] = ()

    @classmethod
    def of(cls, tokenizer: Any, rows: int, end_ids: Collection[int] = ()) -> Vocabulary:  # noqa: ANN401
        """The tokens of a ``tokenizer`` that a model with weights for ``rows`` ids has, and those that end an answer.

        A checkpoint may end its answers with an id that its tokenizer does not know.
        """
        known = {one for one in (*tokenizer.get_vocab().values(), *end_ids) if one < rows}
        size = max(known, default=rows - 1) + 1
        return cls(size, tuple(one for one in range(size) if one not in known))

    def cut(self, model: Any) -> Any:  # noqa: ANN401 - transformers.PreTrainedModel
        """The same ``model``, without weights for the ids beyond."""
        if self.size < model.config.vocab_size:
            model.resize_token_embeddings(self.size, mean_resizing=False)
        return model


@contextmanager
def silenced(model: Any, missing: Collection[int]) -> Iterator[None]:  # noqa: ANN401
    """Within it no answer of ``model`` has a token of ``missing``, by a bias of its output layer."""
    head = model.get_output_embeddings()
    own = head.bias
    if missing:
        bias = torch.zeros_like(head.weight[:, 0]) if own is None else own.detach().clone()
        bias[list(missing)] = _NEVER
        head.bias = torch.nn.Parameter(bias, requires_grad=False)
    try:
        yield
    finally:
        head.bias = own
