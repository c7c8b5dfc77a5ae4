"""Generated damage: the bytes that a record's file may hold instead of the record."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

ODD = (
    10**400,
    -1,
    1e308,
    float("nan"),
    "",
    "..",
    "../../outside",
    "/etc/passwd",
    "a\0b",
    "x" * 300,
    "\ud800",
    None,
    [],
    {},
)
"""Values that have broken readers of records before."""


def bounded(examples: int) -> settings:
    """The settings of a generated test: always the same examples, however busy the machine is."""
    checks = [HealthCheck.too_slow, HealthCheck.function_scoped_fixture, HealthCheck.data_too_large]
    return settings(max_examples=examples, derandomize=True, deadline=None, database=None, suppress_health_check=checks)


def values() -> st.SearchStrategy[Any]:
    """Any JSON, and the odd ones often."""
    plain = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | st.sampled_from(ODD)
    return st.recursive(
        plain, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    )


@st.composite
def changed(draw: st.DrawFn, record: dict[str, Any]) -> bytes:
    """The record with some of its values replaced or removed, at any depth."""
    fields = json.loads(json.dumps(record))
    for _ in range(draw(st.integers(1, 3))):
        at: Any = fields
        while True:
            keys = list(at) if isinstance(at, dict) else list(range(len(at)))
            if not keys:
                break
            key = draw(st.sampled_from(keys))
            if isinstance(at[key], dict | list) and at[key] and draw(st.booleans()):
                at = at[key]
                continue
            if draw(st.integers(0, 3)):
                at[key] = draw(values())
            else:
                del at[key]
            break
    return json.dumps(fields).encode()


@st.composite
def cut(draw: st.DrawFn, record: dict[str, Any]) -> bytes:
    """The record as a crash or a bad disk leaves it."""
    text = bytearray(json.dumps(record).encode())
    at = draw(st.integers(0, len(text)))
    match draw(st.sampled_from(("end", "zeros", "flip", "twice"))):
        case "end":
            return bytes(text[:at])
        case "zeros":
            return bytes(text[:at]) + bytes(len(text) - at)
        case "flip":
            text[min(at, len(text) - 1)] ^= 1 << draw(st.integers(0, 7))
            return bytes(text)
        case _:
            return bytes(text[:at] + text)


def damage(record: dict[str, Any]) -> st.SearchStrategy[bytes]:
    """What may be in the file of this record, from a foreign file to a single wrong bit."""
    foreign = st.binary(max_size=200) | values().map(lambda value: json.dumps(value).encode())
    deep = st.sampled_from([b"[" * 100_000, b'{"a":' * 100_000, b"1" * 100_000, b'{"number": ' + b"9" * 5000 + b"}"])
    return changed(record) | changed(record) | cut(record) | foreign | deep
