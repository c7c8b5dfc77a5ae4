"""The files of a source: the choice of those that are needed, and the proof that they arrived whole."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Collection, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

from pydantic import Field, computed_field

from include.errors import HostError, UserError
from include.files import sha256_of
from include.frozen import Frozen, InsidePath
from include.model.files import CONFIG_FILE, INDEX_FILE, SMALL_FILES, TOKENIZER_FILES, WEIGHTS_FILE
from include.model.weights import promised_tensors
from include.reading import open_regular

_HASH_WORKERS = 4
# At most more than any disk has: sums of sizes stay numbers that can be told in megabytes.
Size = Annotated[int, Field(ge=0, le=1 << 50)]


Digest = Annotated[str, Field(pattern=r"^(sha256:[0-9a-f]{64}|git-sha1:[0-9a-f]{40})$")]
"""A hash with its kind: sha256 of large (LFS) and local files, git's blob sha1 of small files of the Hub."""


class SourceFile(Frozen):
    """One file: path relative to the source, size in bytes, hash."""

    path: InsidePath
    size: Size
    digest: Digest


class Source(Frozen):
    """Files at one immutable commit, on the Hub or in a local directory. Holds no credential.

    ``id`` is the Hub's, or the absolute directory; ``revision`` the one that was asked for; ``commit`` 40 hex digits.
    """

    origin: Literal["hub", "local"]
    id: str
    revision: str
    commit: Annotated[str, Field(pattern=r"^[0-9a-f]{40}$")]
    files: tuple[SourceFile, ...]
    license: str | None = None

    @computed_field  # type: ignore[prop-decorator]
    @property
    def total_bytes(self) -> int:
        """The size of all files, in bytes."""
        return sum(file.size for file in self.files)


class ModelSource(Source):
    """A model: the files needed to load it, and the text of its ``config.json``."""

    config: str


class DatasetSource(Source):
    """A data set of the Hub: text-like files of one split, e.g. ``train``."""

    split: str


class BadFile(NamedTuple):
    """A file that is missing or not as declared; ``expected`` and ``got`` are sizes or digests."""

    file: SourceFile
    expected: str
    got: str


def field_model(thing: object) -> str:
    """The ``where`` of a failure that is in the model that the user named, with the file or page at fault."""
    return f"field model: {thing}"


def choose_model_files(paths: Collection[str], where: str) -> list[str]:
    """The files of a model that are needed, from the ``paths`` at its root; an index stands for its shards.

    One set of weights only: transformers, too, takes ``model.safetensors`` before an index. Pickled weights
    are refused because loading them runs code of their author.

    Raises:
        UserError: no config.json, no safetensors, or no tokenizer.
    """
    if CONFIG_FILE not in paths:
        raise UserError(f"the model has no {CONFIG_FILE}", where=where, fix=_no_config_fix(paths))
    weights = next((name for name in (WEIGHTS_FILE, INDEX_FILE) if name in paths), None)
    if weights is None:
        raise UserError("the model has no safetensors weights", where=where, fix=_no_weights_fix(paths))
    if not TOKENIZER_FILES.intersection(paths):
        known = ", ".join(sorted(TOKENIZER_FILES))
        raise UserError("the model has no tokenizer", where=where, fix=f"add one of {known} to it")
    return [name for name in SMALL_FILES if name in paths] + [weights]


def _no_config_fix(paths: Collection[str]) -> str:
    if "adapter_config.json" in paths:
        return "this is a LoRA adapter: merge it into its base model and name the result"
    if any(path.endswith(".gguf") for path in paths):
        return "this holds GGUF files, which are quantized already: name the model they were made from"
    return "name a model in the transformers format"


def _no_weights_fix(paths: Collection[str]) -> str:
    if any(path.endswith((".bin", ".pt", ".pth")) for path in paths):
        return (
            "it has pickled weights, which can run code when they are loaded: save it again with "
            "save_pretrained(safe_serialization=True), or name a revision that has safetensors"
        )
    return f"name a model with {WEIGHTS_FILE} or {INDEX_FILE}"


def shards_of(index: str, paths: Collection[str], where: str) -> list[str]:
    """The files that the JSON text of ``model.safetensors.index.json`` names, each of which must exist.

    Raises:
        UserError: the index cannot be read, or names a file that is not there.
    """
    shards = list(promised_tensors(index, where))
    missing = [shard for shard in shards if shard not in paths]
    if wrong := missing or ([] if shards else ["none"]):
        raise UserError(
            f"{INDEX_FILE} names shards that are not there: {', '.join(wrong[:4])}",
            where=where,
            fix="complete the upload of the model, or name a revision that is complete",
        )
    return shards


def digest_of(path: Path, kind: str) -> str:
    """The file's `Digest`; ``git-sha1`` is git's blob id: sha1 of ``blob <size>\\0`` and the content."""
    if kind == "sha256":
        return f"sha256:{sha256_of(path)}"
    blob = hashlib.sha1(b"blob %d\0" % path.stat().st_size, usedforsecurity=False)
    with open_regular(path) as stream:
        while chunk := stream.read(1 << 20):
            blob.update(chunk)
    return f"git-sha1:{blob.hexdigest()}"


def check_files(directory: Path, files: Iterable[SourceFile]) -> list[BadFile]:
    """The files that are not in ``directory`` as declared: sizes first, then hashes, several at a time."""
    with ThreadPoolExecutor(_HASH_WORKERS) as pool:
        results = pool.map(lambda file: _check_file(directory / file.path, file), files)
        return [bad for bad in results if bad]


def _check_file(path: Path, file: SourceFile) -> BadFile | None:
    if not path.is_file():
        return BadFile(file, f"{file.size} bytes", "no file")
    size = path.stat().st_size
    if size != file.size:
        return BadFile(file, f"{file.size} bytes", f"{size} bytes")
    got = digest_of(path, file.digest.partition(":")[0])
    return None if got == file.digest else BadFile(file, file.digest, got)


def require_disk(path: Path, need_bytes: int) -> None:
    """Checks that the file system of ``path``, which need not exist yet, has ``need_bytes`` free.

    Raises:
        HostError: names the bytes that are needed and free.
    """
    existing = next(parent for parent in (path, *path.parents) if parent.exists())
    free = shutil.disk_usage(existing).free
    if free < need_bytes:
        raise HostError(
            f"not enough disk: {megabytes(need_bytes)} needed, {megabytes(free)} free",
            where=str(path),
            fix="free some space there, or put the artifacts on a larger disk",
        )


def megabytes(size: int) -> str:
    """``size`` bytes for people, in units of 10^6."""
    return f"{size / 1e6:,.1f} MB" if size < 1e7 else f"{size / 1e6:,.0f} MB"
