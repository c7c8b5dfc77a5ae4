"""The headers of safetensors files on the Hub, without the weights that follow them."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from include.files import disk_errors
from include.reading import Limit
from include.sources.files import SourceFile
from include.sources.hub_repo import Repo
from include.sources.hub_session import hub_session

_WORKERS = 8
_FIRST = 1 << 17
"""A header is seldom longer: a tensor takes about a hundred bytes of it."""
_PARTIAL = 206


def bring_headers(repo: Repo, files: Sequence[SourceFile], into: Path) -> None:
    """Writes each file's header into ``into``, followed by a hole up to the file's size."""
    with hub_session(repo), ThreadPoolExecutor(_WORKERS) as pool:
        headers = list(pool.map(lambda file: _header(repo, file), files))
    with disk_errors(into):
        for file, header in zip(files, headers, strict=True):
            with (into / file.path).open("wb") as out:
                out.write(header)
                out.truncate(file.size)


def _header(repo: Repo, file: SourceFile) -> bytes:
    """The start of a file, up to the end of its header at least."""
    start = _part(repo, file, 0, min(_FIRST, file.size))
    # One that is longer than any is refused where the file is read.
    end = min(8 + int.from_bytes(start[:8], "little"), file.size, Limit.HEADER)
    return start + _part(repo, file, len(start), end) if end > len(start) else start


def _part(repo: Repo, file: SourceFile, begin: int, end: int) -> bytes:
    """The bytes from ``begin`` up to ``end``; of an answer that is the whole file no more is read than that."""
    from huggingface_hub import get_session, hf_hub_url
    from huggingface_hub.utils import build_hf_headers, hf_raise_for_status

    if begin >= end:
        return b""
    url = hf_hub_url(repo.id, file.path, revision=repo.revision, endpoint=repo.endpoint)
    headers = build_hf_headers(token=repo.token or False) | {"Range": f"bytes={begin}-{end - 1}"}
    with get_session().stream("GET", url, headers=headers) as answer:
        if answer.is_error:
            answer.read()
        hf_raise_for_status(answer)
        first = begin if answer.status_code == _PARTIAL else 0
        content = bytearray()
        for chunk in answer.iter_bytes():
            content += chunk
            if len(content) >= end - first:
                break
    return bytes(content[begin - first : end - first])
