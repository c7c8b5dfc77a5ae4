"""Served names: what a model is called by default, and what a name may be."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from include.errors import UserError
from include.requests.names import LONGEST, RESERVED, default_name, is_name, names_of
from include.requests.release import ReleaseRequest


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("HuggingFaceTB/SmolLM2-135M-Instruct", "smollm2-135m-instruct"),
        ("gpt2", "gpt2"),
        ("org/Llama_2.7b", "llama_2.7b"),
        ("/models/My Model (v2)/", "my-model-v2"),
        ("/a/b/../merged", "merged"),
        ("/models/ensemble", "ensemble-model"),
        ("/models/___", "model"),
        ("/", "model"),
        (f"org/{'x' * 90}", "x" * LONGEST),
    ],
)
def test_the_name_by_default_is_the_last_part_of_the_id(model: str, name: str) -> None:
    assert default_name(model) == name


def test_a_request_is_called_by_its_model_unless_it_has_a_name() -> None:
    assert ReleaseRequest(model="org/Name").name == "name"
    assert ReleaseRequest(model="org/Name", served_name="chat").name == "chat"


@given(st.text(min_size=1))
def test_every_default_is_a_name(text: str) -> None:
    assert is_name(default_name(text))


@pytest.mark.parametrize("name", [*RESERVED, "A", "-a", ".a", "a b", "a/b", "a\n", "ä", "a" * (LONGEST + 1)])
def test_what_is_no_name_is_refused(name: str) -> None:
    assert not is_name(name)
    for field, value in (("served_name", name), ("aliases", ["a", name])):
        with pytest.raises(UserError, match=field):
            ReleaseRequest.parse({field: value})


def test_a_name_counts_once() -> None:
    for fields in ({"aliases": ["a", "a"]}, {"served_name": "a", "aliases": ["a"]}, {"aliases": ["x"], "model": "o/x"}):
        with pytest.raises(UserError, match="is a name of this model already"):
            ReleaseRequest.parse(fields)
    request = ReleaseRequest.parse({"served_name": "chat", "aliases": "a\n\nb\n"})
    assert (request.name, request.aliases) == ("chat", ["a", "b"])


@pytest.mark.parametrize("value", [None, 3, ["x"], "ensemble", "../x"])
def test_a_stored_request_with_no_name_has_none(value: object) -> None:
    assert names_of({"served_name": value, "aliases": value}) == ("", ("x",) if value == ["x"] else ())


def test_names_are_in_no_key() -> None:
    """Artifacts of earlier versions hit, and a model that is called otherwise is not built anew."""
    named = ReleaseRequest(served_name="chat", aliases=["a"])
    sections = ("Model", "Quantization", "Engine", "Serving", "Gates")
    assert named.section(*sections) == ReleaseRequest().section(*sections)
