"""The quality of a model: perplexity on held-out text, the same text before and after and through an engine.

The built-in text is the help of the Python standard library (`pydoc_data.topics`): it is there without a
network. Its larger part is for calibration, the rest is held out.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch  # noqa: TID253 - runs only in a target's environment

from include.errors import ToolError, UserError
from include.stages.common import read_json, tell
from include.stages.texts import topics

SAMPLES = 8
SAMPLE_TOKENS = 512
HELD_OUT_FILE = "held_out.json"
REFERENCE_FILE = "reference.json"


def token_blocks(
    tokenizer: Any,  # noqa: ANN401 - transformers.PreTrainedTokenizerBase
    documents: Iterable[str],
    count: int,
    length: int,
) -> torch.Tensor:
    """Int64 [n, length] with n <= count: the documents' tokens one after the other.

    A block starts as the tokenizer starts a text (with its BOS token, if it adds one), because the first
    token has activations of its own. Reads no more documents than needed.
    """
    bos = tokenizer.bos_token_id
    prefix = [bos] if bos is not None and bos in tokenizer("")["input_ids"] else []
    body = length - len(prefix)
    ids: list[int] = []
    for document in documents:
        ids += tokenizer(document + "\n\n", add_special_tokens=False, verbose=False)["input_ids"]
        if len(ids) >= count * body:
            break
    full = min(count, len(ids) // body)
    blocks = [prefix + ids[start : start + body] for start in range(0, full * body, body)]
    return torch.tensor(blocks, dtype=torch.int64).reshape(full, length)


@dataclass(frozen=True)
class HeldOut:
    """Held-out text: the sha256 of its characters and its tokens, int64 [samples, length]."""

    text_sha256: str
    blocks: torch.Tensor

    @classmethod
    def builtin(cls, tokenizer: Any, max_length: int) -> HeldOut:  # noqa: ANN401
        """The held-out part of the built-in text, in blocks of at most ``max_length`` tokens."""
        documents = topics()[1]
        blocks = token_blocks(tokenizer, documents, SAMPLES, min(SAMPLE_TOKENS, max_length))
        return cls(hashlib.sha256("\n\n".join(documents).encode()).hexdigest(), blocks)

    @classmethod
    def load(cls, folder: Path) -> HeldOut:
        """Reads the file of `save`, so that another stage measures on the very same tokens."""
        fields = read_json(folder / HELD_OUT_FILE)
        return cls(fields["text_sha256"], torch.tensor(fields["blocks"], dtype=torch.int64))

    def save(self, folder: Path) -> None:
        """Writes ``held_out.json`` into ``folder``."""
        fields = {"text_sha256": self.text_sha256, "blocks": self.blocks.tolist()}
        (folder / HELD_OUT_FILE).write_text(json.dumps(fields))

    @property
    def scored_tokens(self) -> int:
        """The number of predicted tokens: all but the first of each sample."""
        return int(self.blocks[:, 1:].numel())


def checkpoint_perplexity(checkpoint_dir: Path) -> float:
    """PyTorch's on a checkpoint's held-out text, as `include.stages.calibrate` measured it on what it had written."""
    path = checkpoint_dir / REFERENCE_FILE
    try:
        return float(read_json(path)["quality"]["after"])
    except (LookupError, TypeError, ValueError) as error:
        raise UserError(f"{REFERENCE_FILE} tells no perplexity", where=str(path), fix="calibrate again") from error


def perplexity(logits: Callable[[torch.Tensor], torch.Tensor], blocks: torch.Tensor, share: float = 1) -> float:
    """exp of the mean negative log likelihood of every token but the first of each block.

    Args:
        logits: maps token ids [1, length] to logits [length, vocabulary].
        blocks: int64 [samples, length].
        share: of the running part of the stage that this is.

    Raises:
        ToolError: a sample's likelihood is not a number; no sample is left out.
    """
    losses = []
    for number, block in enumerate(blocks):
        scores = logits(block[None])[:-1].float()
        loss = torch.nn.functional.cross_entropy(scores, block[1:].to(scores.device)).item()
        if not math.isfinite(loss):
            raise ToolError(
                f"the model's logits are not finite on held-out sample {number}",
                fix="use dtype bfloat16 if the model was trained in it",
            )
        losses.append(loss)
        tell(f"sample {number + 1} of {len(blocks)}", share * (number + 1) / len(blocks))
    return math.exp(sum(losses) / len(losses))
