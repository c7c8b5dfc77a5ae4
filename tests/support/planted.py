"""Faults that are planted into copies of what a real server serves."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path


def swapped_tokenizer(tokenizer: Path, into: Path) -> Path:
    """A copy of ``tokenizer`` whose tokens have each other's ids, as if it were another model's."""
    shutil.copytree(tokenizer, into)
    path = into / "tokenizer.json"
    fields = json.loads(path.read_text())
    special = {token["content"] for token in fields["added_tokens"]}
    vocabulary = fields["model"]["vocab"]
    tokens = [token for token in vocabulary if token not in special]
    ids = [vocabulary[token] for token in tokens]
    random.Random(0).shuffle(ids)
    vocabulary.update(zip(tokens, ids, strict=True))
    path.write_text(json.dumps(fields))
    return into
