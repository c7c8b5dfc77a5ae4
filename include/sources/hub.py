"""Models and data sets of the Hugging Face Hub, or of a mirror: resolved to a commit, downloaded, proven."""

from __future__ import annotations

import glob
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import ConfigDict, Field, ValidationError

from include.errors import PipelineError, ToolError, TransientError, UserError
from include.files import Log, disk_errors
from include.frozen import Frozen
from include.model.check import check_model
from include.model.files import CONFIG_FILE, INDEX_FILE, LIMITS, read_text
from include.reading import Limit
from include.sources.dataset_files import Subset, choose_dataset_files, subsets
from include.sources.files import (
    BadFile,
    DatasetSource,
    ModelSource,
    Size,
    SourceFile,
    check_files,
    choose_model_files,
    megabytes,
    require_disk,
    shards_of,
)
from include.sources.hub_headers import bring_headers
from include.sources.hub_repo import Repo
from include.sources.hub_session import hub_session
from include.sources.progress import progress

MAX_DATASET_BYTES = Limit.TEXT_FILE
"""More text than any calibration reads; keeps a slip from downloading a web crawl."""

_WORKERS = 8
_WEIGHTS = ".safetensors"
_SCRATCH = ".cache"
_LONGEST_LICENSE = 100


class _Answer(Frozen):
    """A part of the Hub's answer, as huggingface_hub gives it: it has read the JSON, and checked no type."""

    model_config = ConfigDict(frozen=True, from_attributes=True)


class _Lfs(_Answer):
    size: Size
    sha256: str


class _Sibling(_Answer):
    rfilename: str
    size: Size | None = None
    blob_id: str | None = None
    lfs: _Lfs | None = None


class _Info(_Answer):
    id: Annotated[str, Field(max_length=200)]
    sha: str
    siblings: tuple[_Sibling, ...] | None = None
    tags: tuple[str, ...] | None = None
    card_data: Any = None

    @property
    def license(self) -> str | None:
        named = (tag.removeprefix("license:") for tag in self.tags or () if tag.startswith("license:"))
        return next((name for name in named if name.isprintable() and len(name) <= _LONGEST_LICENSE), None)


class _Listing(NamedTuple):
    """A repository at one commit."""

    repo: Repo
    files: Mapping[str, _Sibling]
    license: str | None
    subsets: Sequence[Subset]

    def source_file(self, path: str) -> SourceFile:
        """The file as the Hub declares it.

        Raises:
            UserError: the file is beyond the limit of its kind, or an endpoint leaves out its size and hash.
            ToolError: what the endpoint declares cannot be.
        """
        file = self.files[path]
        if file.lfs is not None:
            size, digest = file.lfs.size, f"sha256:{file.lfs.sha256}"
        elif file.size is None or file.blob_id is None:
            raise UserError(
                f"the endpoint declares no size and hash for {path}",
                where=self.repo.field,
                fix="use the Hub itself, or a mirror that passes on the Hub's answer to `?blobs=true`",
            )
        else:
            size, digest = file.size, f"git-sha1:{file.blob_id}"
        if size > LIMITS.get(path, size):
            raise UserError(
                f"{path} has {megabytes(size)}; at most {megabytes(LIMITS[path])} are read of it",
                where=self.repo.field,
                fix="name a model in the transformers format",
            )
        try:
            return SourceFile(path=path, size=size, digest=digest)
        except ValidationError as error:
            raise ToolError(
                f"the endpoint's answer cannot be used: its file {path[:200]!r}: {error.errors()[0]['msg']}",
                where=self.repo.url,
                fix="check that the endpoint is a Hub, or name another repository",
            ) from error


def resolve(model: str, revision: str, *, token: str | None, endpoint: str | None) -> ModelSource:
    """The needed files of the Hub model ``model`` at the commit that ``revision`` names now.

    Reads ``config.json`` (and the index of the weights), which also proves that the account may read the
    model: the Hub lists the files of a gated model to everybody.

    Raises:
        UserError: unknown, private or gated model, no such revision, or files that cannot be used.
        TransientError: the network or the Hub is away.
    """
    listing = _list(Repo("model", model, revision, token, endpoint))
    at_root = {path for path in listing.files if "/" not in path}
    chosen = choose_model_files(listing.files.keys(), listing.repo.field)
    texts = _read_texts(listing, [name for name in (CONFIG_FILE, INDEX_FILE) if name in chosen])
    if INDEX_FILE in texts:
        chosen += shards_of(texts[INDEX_FILE], at_root, listing.repo.field)
    return ModelSource(
        origin="hub",
        id=listing.repo.id,
        revision=revision,
        commit=listing.repo.revision,
        files=tuple(listing.source_file(path) for path in sorted(chosen)),
        license=listing.license,
        config=texts[CONFIG_FILE],
    )


def resolve_dataset(
    dataset: str,
    revision: str,
    *,
    token: str | None,
    endpoint: str | None,
    max_bytes: int = MAX_DATASET_BYTES,
) -> DatasetSource:
    """The text-like files of one split of the Hub data set ``dataset``: ``train``, or else the first.

    Of a split in shards, the first shards that fit into ``max_bytes``: calibration reads the beginning only.

    Raises:
        UserError: as for `resolve`; no text-like files; the first file is larger than ``max_bytes``.
        TransientError: the network or the Hub is away.
    """
    listing = _list(Repo("dataset", dataset, revision, token, endpoint))
    sizes = {path: file.size or 0 for path, file in listing.files.items()}
    split, chosen = choose_dataset_files(sizes, listing.subsets, max_bytes, listing.repo.field)
    return DatasetSource(
        origin="hub",
        id=listing.repo.id,
        revision=revision,
        commit=listing.repo.revision,
        files=tuple(listing.source_file(path) for path in chosen),
        license=listing.license,
        split=split,
    )


def fetch(
    source: ModelSource | DatasetSource, into: Path, *, token: str | None, endpoint: str | None, log: Log
) -> None:
    """Downloads ``source`` into ``into`` and proves it; see `include.sources.fetch`."""
    kind: Literal["model", "dataset"] = "model" if isinstance(source, ModelSource) else "dataset"
    _bring(Repo(kind, source.id, source.commit, token, endpoint), source.files, into, log)
    if isinstance(source, ModelSource):
        check_model(into)


@contextmanager
def look_into(source: ModelSource, *, token: str | None, endpoint: str | None) -> Iterator[Path]:
    """A folder with the model's small files, and its weights with their headers alone: what follows is a hole.

    A failure that names a file in it names the repository.
    """
    repo = Repo("model", source.id, source.commit, token, endpoint)
    small = [file for file in source.files if not file.path.endswith(_WEIGHTS)]
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        _bring(repo, small, folder, log=lambda _: None)
        weights = [file for file in source.files if file.path.endswith(_WEIGHTS)]
        bring_headers(repo, weights, folder)
        try:
            yield folder
        except UserError as error:
            what, where, fix = (text.replace(scratch, repo.url) for text in (error.what, error.where, error.fix))
            raise UserError(what, where=where, fix=fix) from error


def _list(repo: Repo) -> _Listing:
    """Commit and files of ``repo``, under the name that the Hub knows it by now."""
    with hub_session(repo):
        api = repo.api()
        ask = api.model_info if repo.kind == "model" else api.dataset_info
        info = _Info.model_validate(ask(repo.id, revision=repo.revision, files_metadata=True))
        return _Listing(
            repo=repo.pinned(info.id, info.sha),
            files={file.rfilename: file for file in info.siblings or ()},
            license=info.license,
            subsets=subsets(vars(info.card_data) if info.card_data else {}),
        )


def _read_texts(listing: _Listing, paths: Sequence[str]) -> dict[str, str]:
    """The content of small files, proven like the large ones."""
    with tempfile.TemporaryDirectory() as scratch:
        files = [listing.source_file(path) for path in paths]
        _bring(listing.repo, files, Path(scratch), log=lambda _: None)
        return {path: read_text(Path(scratch) / path) for path in paths}


def _bring(repo: Repo, files: Sequence[SourceFile], into: Path, log: Log) -> None:
    """Downloads what is not in ``into`` yet and proves it; what fails is removed and downloaded once more."""
    started = time.monotonic()
    with disk_errors(into):
        into.mkdir(parents=True, exist_ok=True)
    bad = check_files(into, files)
    require_disk(into, sum(item.file.size for item in bad))
    for last in (False, True):
        before, wanted = bad, [item.file for item in bad]
        _remove(into, bad)
        try:
            _download(repo, wanted, into, log)
        except TransientError as error:
            if last:
                raise
            log(f"{error.what}; trying once more")
        bad = check_files(into, wanted)
        if not bad:
            size = sum(file.size for file in files)
            log(f"verified {len(files)} files, {megabytes(size)}, after {time.monotonic() - started:.1f} s")
            return
        for item in bad:
            log(f"{item.file.path}: expected {item.expected}, got {item.got}")
    _remove(into, bad)
    raise _mismatch(repo, bad[0], before)


def _remove(into: Path, bad: Sequence[BadFile]) -> None:
    with disk_errors(into):
        for item in bad:
            (into / item.file.path).unlink(missing_ok=True)


def _download(repo: Repo, files: Sequence[SourceFile], into: Path, log: Log) -> None:
    """One pass of huggingface_hub, which keeps finished files and resumes cut ones by Range."""
    from huggingface_hub import snapshot_download

    try:
        size = sum(file.size for file in files)
        largest = max((file.size for file in files), default=0)
        with hub_session(repo, log, largest), disk_errors(into), progress(into, size, log):
            snapshot_download(
                repo.id,
                repo_type=repo.kind,
                revision=repo.revision,
                token=repo.token or False,
                endpoint=repo.endpoint,
                local_dir=into,
                # Not the user's cache: what counts here is what the Hub serves, proven.
                cache_dir=into / _SCRATCH,
                allow_patterns=[glob.escape(file.path) for file in files],
                max_workers=_WORKERS,
            )
    finally:
        shutil.rmtree(into / _SCRATCH, ignore_errors=True)


def _mismatch(repo: Repo, bad: BadFile, before: Sequence[BadFile]) -> PipelineError:
    """The failure after two rounds: the same wrong bytes twice will not get better by trying."""
    what = f"{bad.file.path} is not what the Hub declares: expected {bad.expected}, got {bad.got}"
    if bad in before:
        return ToolError(
            what,
            where=repo.url,
            fix="the endpoint serves other bytes than it declares: use another mirror, or the Hub itself",
        )
    return TransientError(
        what, where=repo.url, fix="the file arrives damaged: look for a proxy that changes or cuts downloads"
    )
