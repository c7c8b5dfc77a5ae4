"""The reference: calibration's measurements on the engine's checkpoint (``reference.json``, ``held_out.json``)."""

from __future__ import annotations

import json
import math
from pathlib import Path

from pydantic import ConfigDict

from include.files import read_record
from include.frozen import Frozen

REFERENCE_FILE = "reference.json"
HELD_OUT_FILE = "held_out.json"


class Continuation(Frozen):
    """A prompt as users send it, and the checkpoint's greedy answer.

    ``chat``: True if the prompt was put into the model's chat template. ``after_ended``: True if the answer ended
    by itself; its ids and text are without the end token. If not, it was cut off. ``before_text`` is the answer before
    quantization.
    """

    prompt: str
    chat: bool = False
    prompt_ids: tuple[int, ...] = ()
    after_ids: tuple[int, ...]
    after_text: str
    after_ended: bool = False
    before_text: str | None = None


class Quality(Frozen):
    """Perplexity on held-out text before and after quantization, and the size of the scored text."""

    model_config = ConfigDict(ser_json_inf_nan="strings")
    metric: str = "perplexity"
    before: float
    after: float
    samples: int
    tokens: int
    text_sha256: str = ""

    @property
    def increase(self) -> float:
        """The rise, as a share of the perplexity before; not a number if there is none."""
        return self.after / self.before - 1 if self.before else math.nan


class HeldOut(Frozen):
    """The size of the held-out text. All but the first token of each sample are scored."""

    text_sha256: str
    samples: int
    tokens: int


class Reference(Frozen):
    """The whole reference. ``quality`` must have been measured on ``held_out``."""

    continuations: tuple[Continuation, ...]
    quality: Quality | None = None
    held_out: HeldOut | None = None

    @property
    def has_chat(self) -> bool:
        """True if the model has a chat template; calibration has then measured prompts in it, too."""
        return any(c.chat for c in self.continuations)


def read_reference(checkpoint: Path) -> Reference:
    """The reference that calibration left beside the checkpoint; raises `HostError` if it is damaged."""
    reference = read_record(checkpoint / REFERENCE_FILE, Reference)
    return reference.model_copy(update={"held_out": _held_out(checkpoint / HELD_OUT_FILE)})


def _held_out(path: Path) -> HeldOut | None:
    if not path.is_file():
        return None
    fields = json.loads(path.read_text())
    tokens = sum(len(block) - 1 for block in fields["blocks"])
    return HeldOut(text_sha256=fields["text_sha256"], samples=len(fields["blocks"]), tokens=tokens)
