"""Answers of a Hub that is broken or means harm: a failure by name, in seconds, and no file outside."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from include.errors import PipelineError, ToolError, TransientError, UserError
from include.sources import ModelSource, fetch, resolve, resolve_dataset
from tests.support import tiny_files as tiny
from tests.support.hub_server import Endless, Fault, HubServer, Repo, Status, info

NAME = "org/tiny"
WEIGHTS = "model.safetensors"
DEEP = "[" * 100_000 + "]" * 100_000


def ask(hub: HubServer) -> ModelSource:
    return resolve(NAME, "main", token=None, endpoint=hub.endpoint)


def answered(hub: HubServer, change: Callable[[dict[str, Any]], object]) -> None:
    """The Hub's answer about the repository, changed once."""
    answer = info(hub.add(Repo(NAME, tiny.model())))
    change(answer)
    hub.fail("revision", Status(200, json.dumps(answer)))


def sibling(name: str, **fields: Any) -> Callable[[dict[str, Any]], None]:
    """Changes what is declared of one file."""

    def change(answer: dict[str, Any]) -> None:
        next(one for one in answer["siblings"] if one["rfilename"] == name).update(fields)

    return change


def lfs(**fields: Any) -> Callable[[dict[str, Any]], None]:
    return sibling(WEIGHTS, lfs={"sha256": "0" * 64, "size": 1, "pointerSize": 1} | fields)


WRONG = {
    "no id": lambda answer: answer.pop("id"),
    "id of a number": lambda answer: answer.update(id=5),
    "id of a path": lambda answer: answer.update(id="../../etc"),
    "id with a line": lambda answer: answer.update(id="org/tiny\nx"),
    "no commit": lambda answer: answer.pop("sha"),
    "commit of a list": lambda answer: answer.update(sha=["a"]),
    "commit of a path": lambda answer: answer.update(sha="../../x"),
    "siblings of a number": lambda answer: answer.update(siblings=5),
    "siblings of text": lambda answer: answer.update(siblings=["config.json"]),
    "siblings of null": lambda answer: answer.update(siblings=[None]),
    "sibling without a name": lambda answer: answer.update(siblings=[{}]),
    "sibling named by a number": lambda answer: answer.update(siblings=[{"rfilename": 5}]),
    "size of text": sibling("config.json", size="big"),
    "size below zero": sibling("config.json", size=-1),
    "size of 400 digits": sibling("config.json", size=10**400),
    "blob of a list": sibling("config.json", blobId=[1]),
    "blob with a line": sibling("config.json", blobId="a" * 39 + "\n"),
    "lfs of text": sibling(WEIGHTS, lfs="x"),
    "lfs of a list": sibling(WEIGHTS, lfs=[1]),
    "lfs without a size": sibling(WEIGHTS, lfs={"sha256": "0" * 64}),
    "lfs size below zero": lfs(size=-1),
    "lfs size of 400 digits": lfs(size=10**400),
    "hash of a path": lfs(sha256="../x"),
    "tags of a number": lambda answer: answer.update(tags=5),
    "tags of numbers": lambda answer: answer.update(tags=[5]),
    "card of a list": lambda answer: answer.update(cardData=[1]),
    "date of text": lambda answer: answer.update(lastModified="yesterday"),
    "safetensors of text": lambda answer: answer.update(safetensors="x"),
}


@pytest.mark.parametrize("change", WRONG.values(), ids=WRONG)
def test_an_answer_of_wrong_types_is_no_answer_of_a_hub(
    hub: HubServer, change: Callable[[dict[str, Any]], object]
) -> None:
    answered(hub, change)
    with pytest.raises(ToolError, match="endpoint") as caught:
        ask(hub)
    assert caught.value.where == f"{hub.endpoint}/{NAME}"
    assert caught.value.fix


@pytest.mark.parametrize("body", ["null", "5", '"x"', "[]", "{}", DEEP, '{"a":' * 100_000, "{", "1" * 5000, "\x00"])
def test_an_answer_that_is_no_object_is_none_of_a_hub(hub: HubServer, body: str) -> None:
    hub.add(Repo(NAME, tiny.model()))
    hub.fail("revision", Status(200, body))
    with pytest.raises(ToolError, match="does not answer like a Hub"):
        ask(hub)


@pytest.mark.parametrize("name", ["../../evil.txt", "/etc/evil.txt", "a\nb.txt", "..", "a\\b.txt", ""])
def test_names_that_leave_the_directory_are_not_asked_for(hub: HubServer, tmp_path: Path, name: str) -> None:
    answered(hub, lambda answer: answer["siblings"].append({"rfilename": name, "size": 1, "blobId": "0" * 40}))
    source = ask(hub)
    assert name not in [file.path for file in source.files]
    fetch(source, tmp_path / "into", token=None, endpoint=hub.endpoint, log=lambda _: None)
    assert {path.name for path in tmp_path.rglob("*") if path.is_file()} == set(tiny.model())


@pytest.mark.parametrize("name", ["../../evil.txt", "a\nb.txt", "\x1b[31m.txt"])
def test_a_data_set_may_not_name_them_either(hub: HubServer, name: str) -> None:
    answer = info(hub.add(Repo(NAME, {"train.txt": b"x"}, kind="dataset")))
    answer["siblings"] = [{"rfilename": f"a/{name}", "size": 1, "blobId": "0" * 40}]
    hub.fail("revision", Status(200, json.dumps(answer)))
    with pytest.raises(PipelineError, match="not a path inside the source") as caught:
        resolve_dataset(NAME, "main", token=None, endpoint=hub.endpoint)
    assert caught.value.what.isprintable()


CARDS = [
    5,
    "x",
    [5],
    [[]],
    [{"data_files": 5}],
    [{"data_files": [5, None]}],
    [{"data_files": [{"split": [], "path": {}}]}],
    [{"data_files": [{"split": "train", "path": [5]}]}],
    [{"data_files": "x" * 10_000}],
]


@pytest.mark.parametrize("configs", CARDS, ids=range(len(CARDS)))
def test_a_card_that_declares_nonsense_declares_nothing(hub: HubServer, configs: object) -> None:
    hub.add(Repo(NAME, {"train.txt": b"x"}, kind="dataset", card={"configs": configs}))
    source = resolve_dataset(NAME, "main", token=None, endpoint=hub.endpoint)
    assert [file.path for file in source.files] == ["train.txt"]


def test_a_config_of_150_megabytes_is_not_downloaded(hub: HubServer) -> None:
    answered(hub, sibling("config.json", size=150_000_000))
    with pytest.raises(UserError, match=r"config\.json has 150 MB; at most 8\.4 MB"):
        ask(hub)
    assert hub.asked("GET", "config.json") == []


GZIP = {"Content-Encoding": "gzip"}
LOOP = {"Location": "/api/models/org/tiny/revision/main"}


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        pytest.param(Endless(), "more than 1,000 bytes", id="endless"),
        pytest.param(Status(200, " " * 2000), "more than 1,000 bytes", id="huge"),
        pytest.param(Endless(gzip.compress(b" " * 1000), GZIP), "is compressed", id="a bomb"),
        pytest.param(Status(302, headers=LOOP), "redirects", id="redirects"),
        pytest.param(Status(302, headers={"Location": "http://[::bad"}), "the ", id="redirect to nowhere"),
    ],
)
def test_an_answer_without_end_is_cut_off(
    hub: HubServer, monkeypatch: pytest.MonkeyPatch, fault: Fault, words: str
) -> None:
    monkeypatch.setattr("include.sources.hub_session.Limit", type("Limit", (), {"HUB_ANSWER": 1000}))
    hub.add(Repo(NAME, tiny.model()))
    hub.fail("revision", *[fault] * 60)
    with pytest.raises(PipelineError, match=words):
        ask(hub)


def test_a_file_without_end_does_not_fill_the_disk(
    hub: HubServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    hub.add(Repo(NAME, tiny.model()))
    source = ask(hub)
    monkeypatch.setattr("include.sources.hub_session.Limit", type("Limit", (), {"HUB_ANSWER": 100_000}))
    hub.fail(WEIGHTS, *[Endless()] * 20)
    with pytest.raises(ToolError, match="an answer has more than"):
        fetch(source, tmp_path, token=None, endpoint=hub.endpoint, log=lambda _: None)
    assert sum(path.stat().st_size for path in tmp_path.rglob("*")) < 1_000_000


def test_a_hub_that_sends_a_byte_now_and_then_does_not_hold_a_worker(
    hub: HubServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    hub.add(Repo(NAME, tiny.model()))
    source = ask(hub)
    monkeypatch.setattr("include.sources.hub_session._SLOW_AFTER_S", 0.0)
    monkeypatch.setattr("include.sources.hub_session.SLOWEST_BYTES_PER_S", 10**15)
    with pytest.raises(TransientError, match=r"the Hub sent [\d,]+ bytes in"):
        fetch(source, tmp_path, token=None, endpoint=hub.endpoint, log=lambda _: None)


@pytest.mark.parametrize("etag", ['"../../evil"', '"a/../../b"', '"' + "a" * 5000 + '"'])
def test_an_etag_is_no_path(hub: HubServer, tmp_path: Path, etag: str) -> None:
    repo = hub.add(Repo(NAME, tiny.model()))
    source = ask(hub)
    headers = {"X-Repo-Commit": repo.commit, "X-Linked-ETag": etag}
    hub.fail(WEIGHTS, *[Status(200, "x", headers)] * 20, method="HEAD")
    with pytest.raises(ToolError, match="its header X-Linked-ETag"):
        fetch(source, tmp_path / "into", token=None, endpoint=hub.endpoint, log=lambda _: None)
    assert not (tmp_path / "evil").exists()


@pytest.mark.parametrize(
    "refs", ["5", "{}", '{"branches": 5, "tags": []}', '{"branches": [{}], "tags": []}', DEEP, "<p>"]
)
def test_the_hint_about_revisions_costs_no_second_failure(hub: HubServer, refs: str) -> None:
    hub.add(Repo(NAME, tiny.model()))
    hub.fail("refs", Status(200, refs))
    with pytest.raises(UserError, match="has no revision"):
        resolve(NAME, "mian", token=None, endpoint=hub.endpoint)
