"""The sources of models and calibration texts: the Hugging Face Hub, or a local directory.

`resolve` says exactly which files, without fetching the large ones; `fetch` brings and proves them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from include.errors import UserError
from include.files import Log
from include.sources import hub, local
from include.sources.files import DatasetSource, ModelSource, SourceFile, field_model, require_disk
from include.sources.hub import resolve_dataset

__all__ = [
    "DatasetSource",
    "ModelSource",
    "SourceFile",
    "fetch",
    "look_into",
    "require_disk",
    "resolve",
    "resolve_dataset",
]


def resolve(model: str, revision: str, *, token: str | None, endpoint: str | None) -> ModelSource:
    """The files of ``model`` at the commit that ``revision`` names now; large files stay where they are.

    ``model`` is a Hub id, or an absolute directory, for which ``revision`` is ignored. Without ``token`` none
    is sent, not even a stored one. Without ``endpoint`` the Hub is asked, or the mirror of ``HF_ENDPOINT``.

    Raises:
        UserError: unknown, private or gated model, no such revision, or files that cannot be used.
        TransientError: the network or the Hub is away.
    """
    if model.startswith("/"):
        return local.resolve(Path(model))
    if model.startswith((".", "~")) or "\\" in model:
        raise UserError(
            f"{model!r} is not an absolute path",
            where=field_model(model),
            fix="give a Hub id such as org/name, or the directory's whole path from /",
        )
    return hub.resolve(model, revision, token=token, endpoint=endpoint)


@contextmanager
def look_into(source: ModelSource, *, token: str | None, endpoint: str | None) -> Iterator[Path]:
    """A folder that holds what can be told of a model without its weights; see `include.sources.hub.look_into`.

    Raises:
        UserError: access was withdrawn, or a file is not what it has to be.
        TransientError: the network or the Hub is away.
    """
    if source.origin == "local":
        yield Path(source.id)
    else:
        with hub.look_into(source, token=token, endpoint=endpoint) as folder:
            yield folder


def fetch(
    source: ModelSource | DatasetSource, into: Path, *, token: str | None, endpoint: str | None, log: Log
) -> None:
    """Brings the files of ``source`` into the directory ``into`` and proves size, hash and structure of each.

    Files that are there already, and right, are kept: a second attempt goes on with the first one's directory.
    ``log`` gets plain lines.

    Raises:
        UserError: the files themselves are bad, or access was withdrawn.
        TransientError: the network failed, or files arrived damaged, twice.
        ToolError: the endpoint twice served the same bytes, which are not those that it declares.
        HostError: the disk is full or cannot be written.
    """
    if isinstance(source, ModelSource) and source.origin == "local":
        local.fetch(source, into, log=log)
    else:
        hub.fetch(source, into, token=token, endpoint=endpoint, log=log)
