"""The configs of target openvino's model repository, with a tokenizer beside them; nothing serves them."""

from __future__ import annotations

import json
import re
from pathlib import Path

from include.settings import PROJECT
from include.triton import repository

TEMPLATES = PROJECT / "include" / "targets" / "openvino" / "repository"
TOKENIZER = {"eos_token": "</s>", "chat_template": "[{{ messages[0].content }}]"}


def write_tokenizer(folder: Path, *, vocabulary: str = "a", **changed: str | None) -> Path:
    """The files of a tokenizer that say what clients rely on."""
    folder.mkdir(parents=True)
    (folder / "tokenizer.json").write_text(json.dumps({"model": {"vocab": {vocabulary: 0}}}))
    (folder / "tokenizer_config.json").write_text(json.dumps({**TOKENIZER, **changed}))
    return folder


def write_repository(folder: Path, tokenizer: Path, *, streaming: bool = True, chat: bool = True) -> Path:
    """The filled configs; a variable that clients do not notice is 1."""
    known = {
        "triton_max_batch_size": "8",
        "tokenizer_dir": str(tokenizer),
        "decoupled_mode": str(streaming).lower(),
        "apply_chat_template": str(chat).lower(),
    }
    for template in TEMPLATES.glob("*/config.pbtxt"):
        text = template.read_text()
        values = {name: known.get(name, "1") for name in re.findall(r"\$\{(\w+)\}", text)}
        (folder / template.parent.name).mkdir(parents=True)
        (folder / template.parent.name / template.name).write_text(repository.fill(text, values))
    return folder
