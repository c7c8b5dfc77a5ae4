# ruff: noqa: TID253
"""A tiny random model that passes the gates on any host: `python -m tests.e2e.tiny DIR`, in the openvino environment.

It takes seconds to calibrate, to build and to serve. Its answers are letters, digits and marks, and never end: no gate
looks at half a character, nor at an end that is nearly as probable as something else.
"""

from __future__ import annotations

import string
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import AutoTokenizer

from tests.include.stages import tiny

# The byte-level alphabet writes a space so.
SPOKEN = string.ascii_letters + string.digits + ",.Ġ"


def save(folder: Path) -> None:
    """A model directory that a request's defaults fit."""
    tiny.save_model(folder, intermediate_size=128, max_position_embeddings=2048)
    tensors = tiny.weights(folder)
    head = tensors["lm_head.weight"]
    spoken = AutoTokenizer.from_pretrained(folder).convert_tokens_to_ids(list(SPOKEN))
    silent = torch.ones(len(head), dtype=torch.bool).index_fill(0, torch.tensor(spoken), False)
    head[silent] = 0  # of so many logits, the largest is above this
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    for file in folder.iterdir():
        file.chmod(0o644)


if __name__ == "__main__":
    save(Path(sys.argv[1]))
