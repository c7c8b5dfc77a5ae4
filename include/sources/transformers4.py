"""A model as transformers 4 reads it, where transformers 5 has written it.

Version 5 keeps the rotary base in ``rope_parameters`` alone and names a tokenizer class that version 4 does not
have. Version 4 says nothing about the first and takes 10000; it fails on the second.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from include.model_config import CONFIG_FILE, ModelConfig

_TOKENIZER_CONFIG = "tokenizer_config.json"


def transformers4_view(model: Path, into: Path) -> Path:
    """Makes the directory ``into`` with the files of ``model`` in the form of version 4, and returns it.

    The large files are hard links where the file system allows, so ``model`` has to be one that nobody edits:
    an artifact of the store, not a user's directory. What version 4 has written stays as it is.

    Raises:
        UserError: ``config.json`` cannot be used.
    """
    config = ModelConfig.read(model)
    into.mkdir(parents=True)
    for path in model.iterdir():
        if path.name == CONFIG_FILE:
            _rewrite(path, into, lambda fields: _config(fields, config))
        elif path.name == _TOKENIZER_CONFIG:
            _rewrite(path, into, _tokenizer_config)
        elif path.is_file():
            _link(path, into / path.name)
    return into


def _config(fields: dict[str, Any], config: ModelConfig) -> dict[str, Any]:
    if not config.transformers5:
        return fields
    rope = {"rope_theta": config.rope_theta, "rope_scaling": config.rope_scaling}
    return {name: value for name, value in fields.items() if name != "rope_parameters"} | rope


def _tokenizer_config(fields: dict[str, Any]) -> dict[str, Any]:
    """Version 5 also lists extra special tokens where version 4 has them by name."""
    if fields.get("tokenizer_class") == "TokenizersBackend":
        fields = fields | {"tokenizer_class": "PreTrainedTokenizerFast"}
    if isinstance(extra := fields.get("extra_special_tokens"), list):
        fields = {name: value for name, value in fields.items() if name != "extra_special_tokens"}
        fields["additional_special_tokens"] = extra
    return fields


def _rewrite(path: Path, into: Path, change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    fields = change(json.loads(path.read_text(encoding="utf-8")))
    (into / path.name).write_text(json.dumps(fields, indent=2), encoding="utf-8")


def _link(path: Path, target: Path) -> None:
    try:
        os.link(path, target)
    except OSError:
        shutil.copyfile(path, target)
