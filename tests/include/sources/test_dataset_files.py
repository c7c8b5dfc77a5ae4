from __future__ import annotations

from pathlib import Path

import pytest

from include.errors import UserError
from include.sources import fetch, resolve_dataset
from include.sources.dataset_files import choose_dataset_files, subsets
from tests.support import tiny_files as tiny
from tests.support.hub_server import HubServer, Repo

NAME = "org/texts"


def choose(
    *paths: str, card: dict[str, object] | None = None, size: int = 10, limit: int = 1000
) -> tuple[str, list[str]]:
    return choose_dataset_files(dict.fromkeys(paths, size), subsets(card or {}), limit, "hub")


@pytest.mark.parametrize(
    ("paths", "split", "chosen"),
    [
        pytest.param(
            ["data/test-0.parquet", "data/train-1.parquet", "data/train-0.parquet"],
            "train",
            ["data/train-0.parquet", "data/train-1.parquet"],
            id="train",
        ),
        pytest.param(["b/train.jsonl", "a/train.jsonl"], "train", ["a/train.jsonl"], id="first-directory"),
        pytest.param(["validation.csv", "test.csv"], "validation", ["validation.csv"], id="no-train"),
        pytest.param(["b.txt", "a.txt", "README.md"], "all", ["a.txt", "b.txt"], id="no-split"),
        pytest.param(["train.csv", "train.parquet"], "train", ["train.parquet"], id="one-format"),
        pytest.param(["dataset_infos.json", "LICENSE.txt", "x.json"], "all", ["x.json"], id="no-metadata"),
        pytest.param(["constraint.txt", "b.txt"], "all", ["b.txt", "constraint.txt"], id="whole-words-only"),
    ],
)
def test_chooses_by_name(paths: list[str], split: str, chosen: list[str]) -> None:
    assert choose(*paths) == (split, chosen)


CARD_FILES = ["big/train-0.parquet", "small/train-0.parquet", "small/val-0.parquet", "deep/a/x.jsonl"]


@pytest.mark.parametrize(
    ("configs", "split", "chosen"),
    [
        pytest.param(
            [
                {"config_name": "big", "data_files": [{"split": "train", "path": "big/train-*"}]},
                {
                    "config_name": "small",
                    "default": True,
                    "data_files": [
                        {"split": "val", "path": "small/val-*"},
                        {"split": "train", "path": ["small/train-*"]},
                    ],
                },
            ],
            "train",
            ["small/train-0.parquet"],
            id="default-configuration",
        ),
        pytest.param(
            [{"data_files": [{"split": "val", "path": "small/val-*"}]}],
            "val",
            ["small/val-0.parquet"],
            id="first-split",
        ),
        pytest.param([{"data_files": "deep/**/*.jsonl"}], "train", ["deep/a/x.jsonl"], id="pattern"),
        pytest.param([{"data_files": ["deep/**/*.jsonl"]}], "train", ["deep/a/x.jsonl"], id="patterns"),
        pytest.param([{"data_files": "gone/*"}], "train", ["big/train-0.parquet"], id="matches-nothing"),
        pytest.param([{"config_name": "x"}], "train", ["big/train-0.parquet"], id="no-data-files"),
        pytest.param(["nonsense"], "train", ["big/train-0.parquet"], id="nonsense"),
    ],
)
def test_follows_the_card(configs: list[object], split: str, chosen: list[str]) -> None:
    assert choose(*CARD_FILES, card={"configs": configs}) == (split, chosen)


def test_takes_the_first_shards_that_fit() -> None:
    assert choose("train-0.csv", "train-1.csv", "train-2.csv", limit=25) == (
        "train",
        ["train-0.csv", "train-1.csv"],
    )


@pytest.mark.parametrize(
    ("paths", "words"),
    [
        pytest.param(["train-0.csv"], "train-0.csv has 0.0 MB", id="too-large"),
        pytest.param(["images.zip", "README.md"], "no text-like files", id="no-text"),
    ],
)
def test_refuses(paths: list[str], words: str) -> None:
    with pytest.raises(UserError, match=words):
        choose(*paths, limit=9)


def test_brings_a_split_of_the_hub(hub: HubServer, tmp_path: Path) -> None:
    files = {"data/train-[a].parquet": b"PAR1", "data/test.parquet": b"PAR1", "README.md": b"#"}
    repo = hub.add(Repo(NAME, files, kind="dataset", license="mit"))
    source = resolve_dataset(NAME, "main", token=None, endpoint=hub.endpoint)
    assert (source.split, source.license, source.commit) == ("train", "mit", repo.commit)
    fetch(source, tmp_path, token=None, endpoint=hub.endpoint, log=lambda _: None)
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["train-[a].parquet"]
    assert source.model_validate_json(source.model_dump_json()) == source


def test_uses_the_declared_configuration_of_the_hub(hub: HubServer) -> None:
    card = {"configs": [{"data_files": [{"split": "train", "path": "b/*"}]}]}
    hub.add(Repo(NAME, {"a/train.txt": b"a", "b/x.txt": b"b"}, kind="dataset", card=card))
    source = resolve_dataset(NAME, "main", token=None, endpoint=hub.endpoint)
    assert [file.path for file in source.files] == ["b/x.txt"]


@pytest.mark.parametrize("there", ["nothing", "a model"])
def test_an_unknown_data_set_is_the_users_matter(hub: HubServer, there: str) -> None:
    if there == "a model":
        hub.add(Repo(NAME, tiny.model()))
    with pytest.raises(UserError, match="no dataset org/texts") as caught:
        resolve_dataset(NAME, "main", token=None, endpoint=hub.endpoint)
    assert caught.value.where == f"field calib_data: {hub.endpoint}/datasets/{NAME}"
