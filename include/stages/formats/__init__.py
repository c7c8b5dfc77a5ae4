"""The formats of quantized weights, a file and a row each. They travel with every stage program."""

from __future__ import annotations

from collections.abc import Mapping

from include.errors import UserError
from include.stages.formats.base import Format
from include.stages.formats.fp8 import Fp8
from include.stages.formats.int4_awq import Int4Awq

_ROWS: tuple[Format, ...] = (Int4Awq(), Fp8())
FORMATS: Mapping[str, Format] = {row.name: row for row in _ROWS}
"""By the value of the field *quantization*."""
DEFAULT = Int4Awq.name


def of_algorithm(algorithm: object, where: str) -> Format:
    """The format of a checkpoint's or an engine's ``quant_algo``; UserError for one that is not supported."""
    found = next((row for row in _ROWS if row.algorithm == algorithm), None)
    if found is None:
        known = ", ".join(row.algorithm for row in _ROWS)
        raise UserError(f"the checkpoint's quant_algo is {algorithm}, not one of {known}", where=where)
    return found


def title_of(request: Mapping[str, object]) -> str:
    """The title of a recorded request's format: of the default one where the record is older than the field."""
    name = str(request.get("quantization", DEFAULT))
    return FORMATS[name].title if name in FORMATS else name


def unused_fields(name: str) -> frozenset[str]:
    """The fields that only formats other than ``name`` use."""
    used = FORMATS[name].fields if name in FORMATS else frozenset()
    return frozenset[str]().union(*(row.fields for row in _ROWS)) - used
