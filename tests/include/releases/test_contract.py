"""What clients of a release would notice of another one, from requests and from the files of repositories."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from include.errors import ToolError, UserError
from include.releases.contract import Comparison, Contract, Input, compare
from include.requests.release import ReleaseRequest
from tests.support.served import write_repository, write_tokenizer

REQUEST = {"max_input_len": 32, "max_seq_len": 64, "max_batch_size": 8}
LIVE = Contract(
    aliases=("chat", "small"),
    streaming=True,
    max_input_len=1024,
    max_seq_len=2048,
    max_batch_size=8,
    chat_template="a",
    tokenizer="b",
    end_token="</s>",
    end_ids=frozenset({2, 7}),
    inputs={"text_input": Input(type="STRING", optional=False), "top_k": Input(type="INT32")},
    outputs={"text_output": "STRING"},
)
INPUTS, OUTPUTS = LIVE.inputs or {}, LIVE.outputs or {}
BREAKING: list[tuple[dict[str, Any], str]] = [
    ({"streaming": False}, "streaming is off, the live release has it on"),
    ({"max_input_len": 512}, "max_input_len is 512, 1024 on the live release: longer prompts will be refused"),
    ({"max_seq_len": 1024}, "max_seq_len is 1024, 2048 on the live release: longer prompts and answers will be"),
    ({"max_batch_size": 4}, "max_batch_size is 4, 8 on the live release: requests with more prompts will be refused"),
    ({"chat_template": ""}, "text_input is not put into the model's chat template"),
    ({"chat_template": "c"}, "the chat template is another one"),
    ({"tokenizer": "c"}, "the tokenizer is another one"),
    ({"end_token": "<|im_end|>"}, "answers end at '<|im_end|>', on the live release at '</s>'"),
    ({"end_ids": frozenset({2})}, "answers end at the tokens 2, on the live release at 2, 7"),
    ({"aliases": ("small",)}, "alias chat is gone: requests to it will be refused"),
    ({"inputs": {"text_input": INPUTS["text_input"]}}, "field top_k is gone: requests with it will be refused"),
    ({"inputs": INPUTS | {"top_k": Input(type="FP32")}}, "field top_k is FP32, INT32 on the live release"),
    ({"inputs": INPUTS | {"top_k": Input(type="INT32", optional=False)}}, "field top_k must be given"),
    ({"inputs": INPUTS | {"key": Input(type="STRING", optional=False)}}, "field key must be given"),
    ({"outputs": {}}, "answers have no text_output"),
    ({"outputs": {"text_output": "INT32"}}, "text_output in answers is INT32, STRING on the live release"),
]
HARMLESS: list[tuple[dict[str, Any], str]] = [
    ({"max_input_len": 1025}, "max_input_len is 1025, 1024 on the live release"),
    ({"aliases": ("small", "chat", "new")}, "new aliases: new"),
    ({"max_batch_size": 16}, "max_batch_size is 16, 8 on the live release"),
    ({"inputs": INPUTS | {"seed": Input(type="UINT64")}}, "new fields of requests: seed"),
    ({"outputs": OUTPUTS | {"score": "FP32"}}, "new fields of answers: score"),
]


@pytest.mark.parametrize(("changed", "said"), BREAKING, ids=lambda part: part if isinstance(part, str) else "")
def test_a_breaking_change_is_one_sentence(changed: dict[str, Any], said: str) -> None:
    (change,) = compare(LIVE, LIVE.model_copy(update=changed))
    assert change.breaking
    assert change.text.startswith(said)


@pytest.mark.parametrize(("changed", "said"), HARMLESS, ids=lambda part: part if isinstance(part, str) else "")
def test_a_change_that_breaks_nobody_is_named_too(changed: dict[str, Any], said: str) -> None:
    (change,) = compare(LIVE, LIVE.model_copy(update=changed))
    assert (change.breaking, change.text) == (False, said)


@pytest.mark.parametrize(
    ("field", "before", "after", "said"),
    [
        ("streaming", False, True, "streaming is on, the live release has it off: clients of infer"),
        ("chat_template", "", "a", "text_input is put into the model's chat template"),
    ],
)
def test_the_way_back_breaks_others(field: str, before: object, after: object, said: str) -> None:
    live, candidate = (LIVE.model_copy(update={field: value}) for value in (before, after))
    (change,) = compare(live, candidate)
    assert change.breaking
    assert change.text.startswith(said)


@pytest.mark.parametrize("name", Contract.model_fields)
def test_what_is_not_known_of_one_is_no_change(name: str) -> None:
    unknown = LIVE.model_copy(update={name: None})
    assert compare(LIVE, unknown) == compare(unknown, LIVE) == compare(LIVE, LIVE) == ()


def test_people_read_the_breaking_changes_first() -> None:
    changed = LIVE.model_copy(update={"max_input_len": 2048, "tokenizer": "c"})
    found = Comparison(against="org--name/3", changes=compare(LIVE, changed))
    assert [change.field for change in found.breaking] == ["tokenizer"]
    assert found.lines()[0].startswith("breaking: the tokenizer")
    assert "- breaking: the tokenizer is" in found.to_markdown()
    assert "No changes were found" in Comparison(against="org--name/3").to_markdown()
    assert Comparison.model_validate_json(found.model_dump_json()) == found


def stored(root: Path, name: str = "r", *, streaming: bool = True, chat: bool = True, **tokenizer: Any) -> Contract:
    folder = write_tokenizer(root / f"tokenizer-{name}", **tokenizer)
    return Contract.stored(write_repository(root / name, folder, streaming=streaming, chat=chat), REQUEST)


def test_a_repository_tells_its_contract(tmp_path: Path) -> None:
    found = stored(tmp_path)
    assert (found.streaming, found.max_input_len, found.max_seq_len, found.max_batch_size) == (True, 32, 64, 8)
    assert (found.end_token, found.end_ids, found.aliases) == ("</s>", {1}, ())
    assert found.inputs
    assert found.outputs
    assert found.inputs["text_input"] == Input(type="STRING", optional=False)
    assert found.inputs["seed"] == Input(type="UINT64")
    assert found.outputs["num_output_tokens"] == "INT32"
    assert None not in found.model_dump().values()


@pytest.mark.parametrize(
    ("changed", "fields"),
    [
        ({}, []),
        ({"streaming": False}, ["streaming"]),
        ({"chat": False}, ["chat_template"]),
        ({"chat_template": "{{ messages }}"}, ["chat_template"]),
        ({"vocabulary": "b"}, ["tokenizer"]),
        ({"eos_token": "<|end|>"}, ["end_token"]),
    ],
)
def test_repositories_are_compared_by_their_files(tmp_path: Path, changed: dict[str, Any], fields: list[str]) -> None:
    changes = compare(stored(tmp_path), stored(tmp_path, "other", **changed))
    assert [change.field for change in changes if change.breaking] == fields


def test_a_template_that_is_not_applied_does_not_count(tmp_path: Path) -> None:
    other = stored(tmp_path, "other", chat=False, chat_template="{{ messages }}")
    assert compare(stored(tmp_path, chat=False), other) == ()


def test_a_repository_of_an_earlier_version_has_fewer_fields(tmp_path: Path) -> None:
    today = stored(tmp_path)
    config = tmp_path / "r" / "ensemble" / "config.pbtxt"
    lines = [line for line in config.read_text().splitlines() if '"random_seed"' not in line]
    config.write_text("\n".join(lines))
    earlier = Contract.stored(tmp_path / "r", REQUEST)
    assert [(c.breaking, c.text) for c in compare(earlier, today)] == [(False, "new fields of requests: random_seed")]
    assert [c.text for c in compare(today, earlier) if c.breaking] == [
        "field random_seed is gone: requests with it will be refused"
    ]


def test_a_repository_without_models_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ToolError, match="no model in the repository"):
        Contract.stored(tmp_path, {})


def test_a_tokenizer_that_is_gone_or_damaged_is_not_known_or_an_error(tmp_path: Path) -> None:
    stored(tmp_path)
    (tmp_path / "tokenizer-r" / "tokenizer_config.json").write_text("[")
    with pytest.raises(UserError, match=r"tokenizer_config\.json cannot be read"):
        Contract.stored(tmp_path / "r", REQUEST)
    (tmp_path / "tokenizer-r").rename(tmp_path / "gone")
    assert Contract.stored(tmp_path / "r", {}).tokenizer is None


@pytest.mark.parametrize(
    ("asked", "applies", "template"), [("auto", True, None), ("off", True, ""), ("auto", False, "")]
)
def test_a_request_tells_what_it_can(asked: str, applies: bool, template: str | None) -> None:
    request = ReleaseRequest(streaming=False, max_input_len=12, chat_template=asked)
    found = Contract.of_request(request, applies_chat_template=applies)
    assert (found.streaming, found.max_input_len, found.chat_template) == (False, 12, template)
    assert Contract.of_request(ReleaseRequest(aliases=["a"]), applies_chat_template=applies).aliases == ("a",)
    assert found.tokenizer is found.inputs is None
