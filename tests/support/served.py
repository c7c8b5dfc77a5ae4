"""Model repositories of target openvino, with a tokenizer beside them; nothing serves them."""

from __future__ import annotations

import json
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
    """The filled templates, with any engine."""
    batch = {"triton_max_batch_size": "8"}
    text = {**batch, "tokenizer_dir": str(tokenizer)}
    numbers = {"engine_dir": str(tokenizer), "max_seq_len": "64", "max_num_tokens": "64", "kv_cache_bytes": "1"}
    template = {"apply_chat_template": str(chat).lower(), "max_input_len": "32", "max_seq_len": "64"}
    values = {
        "ensemble": batch,
        "preprocessing": {**text, **template},
        "tensorrt_llm": {**text, **numbers, "decoupled_mode": str(streaming).lower()},
        "postprocessing": text,
    }
    repository.assemble(TEMPLATES, values, folder)
    return folder
