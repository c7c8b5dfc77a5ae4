"""The files of a source: the choice of those that are needed, and the proof that they arrived whole."""

from __future__ import annotations

import hashlib
import re
import shutil
from collections.abc import Collection, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import Annotated, Literal, NamedTuple

from pydantic import Field, computed_field

from include.errors import HostError, UserError
from include.files import sha256_of
from include.frozen import Frozen, InsidePath
from include.model.files import (
    CONFIG_FILE,
    INDEX_FILE,
    SMALL_FILES,
    TEMPLATE_FOLDERS,
    TOKENIZER_FILE,
    TOKENIZER_FILES,
    WEIGHTS_FILE,
)
from include.model.weights import promised_tensors
from include.reading import open_regular

_HASH_WORKERS = 4
_SHARD = re.compile(r"model-\d+-of-(\d+)\.safetensors")
_QUANTIZATION_FILES = frozenset({"quantize_config.json", "quant_config.json", "hf_quant_config.json"})
_OTHER_FORMS = {
    ".gguf": "this holds GGUF files, which are quantized already: name the model they were made from",
    ".nemo": "this is an archive of NeMo: export the model to transformers' form, and name that",
    ".onnx": "this holds ONNX files: name the model that they were exported from",
    ".h5": "these are weights of TensorFlow: load them with from_tf=True, and save the model again",
    ".msgpack": "these are weights of Flax: load them with from_flax=True, and save the model again",
}
EMBEDDING_FILE = "config_sentence_transformers.json"
ADAPTER_FILE = "adapter_config.json"
_ADAPTER_WEIGHTS = "adapter_model."
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
    """The files of a model that are needed, from all its ``paths``; an index stands for its shards.

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
    _check_plain(paths, where)
    if not TOKENIZER_FILES.intersection(paths):
        raise UserError("the model has no tokenizer", where=where, fix=_no_tokenizer_fix(paths))
    templates = (path for path in paths if PurePosixPath(path).match("*/*.jinja"))
    named = sorted(path for path in templates if path.partition("/")[0] in TEMPLATE_FOLDERS)
    return [name for name in SMALL_FILES if name in paths] + named + [weights]


def _check_plain(paths: Collection[str], where: str) -> None:
    """Programs leave a file of theirs beside the weights that says what these are, whatever ``config.json`` says."""
    if found := _QUANTIZATION_FILES.intersection(paths):
        raise UserError(
            f"the model is quantized already: it has a {min(found)}",
            where=where,
            fix="name the unquantized model that it was made from",
        )
    if {EMBEDDING_FILE, "modules.json"} <= set(paths):
        raise UserError(
            f"the model makes vectors of texts: it has a {EMBEDDING_FILE} of sentence-transformers",
            where=where,
            fix="name a model for text generation",
        )
    if ADAPTER_FILE in paths and any(path.startswith(_ADAPTER_WEIGHTS) for path in paths):
        raise UserError(
            f"an adapter lies beside the model ({ADAPTER_FILE}), and would not be applied",
            where=where,
            fix="merge it into its base model (merge_and_unload of PEFT) and name the result; if it is merged already, "
            "use a copy without it",
        )


def _special_fix(paths: Collection[str]) -> str | None:
    """The advice for what is no model of transformers' format, or only a part of one."""
    if ADAPTER_FILE in paths:
        return "this is a LoRA or another PEFT adapter: merge it into its base model and name the result"
    other = next((fix for suffix, fix in _OTHER_FORMS.items() if any(path.endswith(suffix) for path in paths)), None)
    if other:
        return other
    if any(path.startswith("consolidated") for path in paths) or "params.json" in paths:
        return (
            "these are weights in the form of the model's makers (consolidated): name the repository in transformers' "
            "form, or convert it (convert_llama_weights_to_hf.py or convert_mistral_weights_to_hf.py of transformers)"
        )
    return None


def _no_config_fix(paths: Collection[str]) -> str:
    if below := sorted(str(PurePosixPath(path).parent) for path in paths if path.endswith(f"/{CONFIG_FILE}")):
        return f"there is one in {below[0]}: name that directory, or copy the model out of it"
    return _special_fix(paths) or "name a model in the transformers format"


def _no_tokenizer_fix(paths: Collection[str]) -> str:
    if "tekken.json" in paths:
        return (
            f"it has a tekken.json only, which transformers cannot read: add the {TOKENIZER_FILE} of a repository that "
            "has it in transformers' form"
        )
    return f"add one of {', '.join(sorted(TOKENIZER_FILES))} to it"


def _no_weights_fix(paths: Collection[str]) -> str:
    if special := _special_fix(paths):
        return special
    if any(_SHARD.fullmatch(path) for path in paths):
        return f"its shards lack their {INDEX_FILE}: add it, or download the model again"
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
    if unnamed := sorted(_same_set(shards, paths) - set(shards)):
        raise UserError(
            f"{INDEX_FILE} does not name {', '.join(unnamed[:4])}, of the same set as the shards that it names",
            where=where,
            fix="get the index and the shards of one save, or remove what does not belong to it",
        )
    return shards


def _same_set(shards: Collection[str], paths: Collection[str]) -> set[str]:
    """The files of the sets, as "of-00003" names one, that the ``shards`` belong to."""
    sets = {match[1] for shard in shards if (match := _SHARD.fullmatch(shard))}
    return {path for path in paths if (match := _SHARD.fullmatch(path)) and match[1] in sets}


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
