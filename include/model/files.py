"""The files of a model, as transformers writes them: their names, their limits, and how they are read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from include.errors import UserError
from include.reading import Limit, parse_json, read_bytes

CONFIG_FILE = "config.json"
GENERATION_FILE = "generation_config.json"
TOKENIZER_FILE = "tokenizer.json"
TOKENIZER_MODEL = "tokenizer.model"
TOKENIZER_CONFIG_FILE = "tokenizer_config.json"
CHAT_TEMPLATE_FILE = "chat_template.jinja"
WEIGHTS_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"

# What transformers reads of a decoder model and its tokenizer besides the weights.
SMALL_FILES = {
    CONFIG_FILE: Limit.SETTINGS,
    GENERATION_FILE: Limit.SETTINGS,
    TOKENIZER_FILE: Limit.TOKENIZER,
    TOKENIZER_CONFIG_FILE: Limit.SETTINGS,
    TOKENIZER_MODEL: Limit.TOKENIZER,
    "special_tokens_map.json": Limit.SETTINGS,
    "added_tokens.json": Limit.SETTINGS,
    "vocab.json": Limit.TOKENIZER,
    "vocab.txt": Limit.TOKENIZER,
    "merges.txt": Limit.TOKENIZER,
    "chat_template.json": Limit.SETTINGS,
    CHAT_TEMPLATE_FILE: Limit.SETTINGS,
}
TOKENIZER_FILES = frozenset({TOKENIZER_FILE, TOKENIZER_MODEL, "vocab.json"})
TEMPLATE_FOLDERS = ("additional_chat_templates", "chat_templates")
"""Where transformers, and those who write by hand, put chat templates that have names."""
LFS_POINTER = b"version https://git-lfs.github.com/spec/"
LIMITS = {**SMALL_FILES, INDEX_FILE: Limit.INDEX}


def read_file(path: Path) -> bytes:
    """The content of a model's small file or index; UserError where it is no regular file, or beyond its limit."""
    try:
        content = read_bytes(path, LIMITS.get(path.name, Limit.SETTINGS))
    except OSError as error:
        raise bad_file(path, str(error.strerror)) from error
    check_no_pointer(path, content)
    return content


def check_no_pointer(path: Path, start: bytes) -> None:
    """Raises `UserError` where a file that starts so only stands for one that git has not fetched."""
    if start.startswith(LFS_POINTER):
        raise UserError(
            f"{path.name} is a Git LFS pointer and not the file itself",
            where=f"field model: {path}",
            fix="run `git lfs pull` in the model's directory (or download the model again with `hf download`)",
        )


def read_text(path: Path) -> str:
    """The text of a model's file; UserError as for `read_file`, and where it is not UTF-8."""
    try:
        return read_file(path).decode("utf-8")
    except UnicodeDecodeError as error:
        raise bad_file(path, "it is not UTF-8 text") from error


def read_object(path: Path) -> dict[str, Any]:
    """The fields of a model's JSON file; UserError as for `read_file`, and where it is no object within the limits."""
    try:
        fields = parse_json(read_text(path))
    except ValueError as error:
        raise bad_file(path, str(error)) from error
    if not isinstance(fields, dict):
        raise bad_file(path, "it is not a JSON object")
    return fields


def bad_file(path: Path, why: str) -> UserError:
    """The failure of a model's file that cannot be used."""
    return UserError(
        f"{path.name} cannot be read: {why}",
        where=f"field model: {path}",
        fix="get the file again, or repair the model",
    )


def check_small_files(folder: Path) -> None:
    """Raises `UserError` unless the small files of the model in ``folder`` can be read, and their JSON are objects."""
    for name in SMALL_FILES:
        path = folder / name
        if path.is_symlink() or path.exists():
            (read_object if path.suffix == ".json" else read_file)(path)


def named_templates(folder: Path) -> dict[str, Path]:
    """The chat templates in folders of their own, by their names."""
    files = (path for name in TEMPLATE_FOLDERS for path in (folder / name).glob("*.jinja"))
    return {path.stem: path for path in sorted(files)}
