"""Served names: the names that clients call live models by."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Mapping
from typing import Any

LONGEST = 63
RESERVED = ("ensemble", "tensorrt_llm", "tensorrt_llm_bls", "preprocessing", "postprocessing")
"""Names of the models in each repository; bare ``ensemble`` is the default model."""

# "$" alone would allow a trailing newline.
_NAME = rf"(?!(?:{'|'.join(RESERVED)})$)[a-z0-9][a-z0-9._\-]{{0,{LONGEST - 1}}}"
NAME_PATTERN = rf"^{_NAME}$(?!\n)"
NAME_OR_EMPTY_PATTERN = rf"^(?:|{_NAME})$(?!\n)"


def is_name(text: object) -> bool:
    """True if a model may be served under this name."""
    return isinstance(text, str) and re.match(NAME_PATTERN, text) is not None


def default_name(model: str) -> str:
    """The served name of a model that was given none: the last part of its Hub id or path, as a name may be."""
    last = posixpath.basename(posixpath.normpath(model)).lower()
    name = re.sub(r"[^a-z0-9._-]+", "-", last).strip("._-")[:LONGEST].rstrip("._-") or "model"
    return f"{name}-model" if name in RESERVED else name


def names_of(request: Mapping[str, Any]) -> tuple[str, tuple[str, ...]]:
    """The served name in a stored request, empty if it has none, and the aliases; what is no name is left out."""
    name, aliases = request.get("served_name"), request.get("aliases")
    texts = aliases if isinstance(aliases, list | tuple) else ()
    return str(name) if is_name(name) else "", tuple(one for one in texts if is_name(one))
