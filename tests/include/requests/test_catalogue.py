"""The catalogue: what is wrong is named by file, line, entry and field, and the other entries are read all the same."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from pathlib import Path

import pytest

from include.errors import UserError
from include.requests.catalogue import Catalogue, Entry, load
from include.requests.release import ReleaseRequest
from include.settings import PROJECT, Settings

GOOD = """\
- name: good
  model: org/good
  target: openvino
"""
COMMIT = "0123456789abcdef0123456789abcdef01234567"


def entry(**lines: str) -> str:
    """The YAML of an entry that is right but for ``lines``, which are put in place of its own."""
    fields = {"name": "other", "model": "org/other", "target": "openvino"} | lines
    return "- " + "\n  ".join(f"{name}: {value}" for name, value in fields.items() if value) + "\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "catalogue"
    folder.mkdir()
    return folder


def read(folder: Path, *files: str) -> Catalogue:
    for number, text in enumerate(files):
        (folder / f"{number}.yaml").write_text(text)
    return load(folder)


def names(catalogue: Catalogue) -> list[str]:
    return [entry.name for entry in catalogue.entries]


def test_an_entry_becomes_a_request(folder: Path) -> None:
    text = entry(revision="v1.0", require_approval="true", settings="{awq_group_size: 32, approvers: [ann]}")
    (found,) = read(folder, text).entries
    expected = {"model": "org/other", "revision": "v1.0", "awq_group_size": 32, "require_approval": True}
    assert found.request == ReleaseRequest(**expected, approvers=["ann"])


@pytest.mark.parametrize(
    ("text", "where", "what"),
    [
        pytest.param(entry(targt="openvino"), "other", "targt: ", id="unknown key"),
        pytest.param(entry(target=""), "other", "target: Field required", id="missing key"),
        pytest.param(entry(target="tpu"), "other", "target: ", id="unknown target"),
        pytest.param(entry(model="../etc"), "other", "model: '../etc' is not a Hub id", id="model"),
        pytest.param(entry(revision="a b"), "other", "revision: 'a b' is not a branch", id="revision"),
        pytest.param(entry(revision="1.0"), "other", "revision: Input should be a valid string", id="a number"),
        pytest.param(entry(settings="{max_batch_size: 0}"), "other", "max_batch_size: ", id="setting out of limits"),
        pytest.param(entry(settings="{max_batch: 1}"), "other", "max_batch: ", id="unknown setting"),
        pytest.param(entry(settings="{max_input_len: 2048}"), "other", "max_input_len", id="settings that do not fit"),
        pytest.param(entry(settings="{target: openvino}"), "other", "target belongs beside settings", id="misplaced"),
        pytest.param(entry(schedule="often"), "other", "schedule: ", id="no cron expression"),
        pytest.param(entry(schedule='"* * * * * *"'), "other", "schedule: ", id="cron with seconds"),
        pytest.param(entry(trust_remote_code="true"), "other", "no stage runs code", id="remote code"),
        pytest.param(entry(only_commits="[main]"), "other", "only_commits.0: ", id="a branch for a commit"),
        pytest.param(entry(model="/srv/m", only_commits=f"[{COMMIT}]"), "other", "only_commits", id="pinned directory"),
        pytest.param(entry(name='"a/b"'), "a/b", "name: ", id="name"),
        pytest.param(entry() + "  model: org/third\n", "other", "model stands twice", id="a key twice"),
        pytest.param("- just text\n", "entry of line 1", "not a mapping", id="no mapping"),
        pytest.param("- {model: org/other, target: openvino}\n", "entry of line 1", "name: Field", id="no name"),
        pytest.param(entry(name="good"), "good", "name: another entry", id="name taken"),
        pytest.param(entry(model="org/good"), "other", "model: entry good follows org/good already", id="model taken"),
    ],
)
def test_a_mistake_is_named_and_costs_its_own_entry_alone(folder: Path, text: str, where: str, what: str) -> None:
    catalogue = read(folder, GOOD + entry(name="before", model="org/before"), text + entry(name="z", model="org/z"))
    assert names(catalogue) == ["good", "before", "z"]
    (problem,) = catalogue.problems
    assert str(problem).startswith(f"{folder}/1.yaml:1: {where}: ")
    assert what in problem.what


@pytest.mark.parametrize(
    ("content", "what"),
    [
        pytest.param(b"- name: [\n", "line 2: ", id="no YAML"),
        pytest.param(b"\xff\xfe- name", "cannot be read", id="no text"),
        pytest.param(b"name: x\n", "not a list", id="no list"),
    ],
)
def test_a_file_that_cannot_be_read_costs_its_own_entries_alone(folder: Path, content: bytes, what: str) -> None:
    (folder / "bad.yaml").write_bytes(content)
    catalogue = read(folder, GOOD)
    assert names(catalogue) == ["good"]
    (problem,) = catalogue.problems
    assert problem.name == "bad.yaml"
    assert what in problem.what


def test_all_mistakes_are_told_at_once(folder: Path) -> None:
    catalogue = read(folder, entry(targt="x") + entry(name="third", schedule="often"))
    with pytest.raises(UserError, match=r"(?s)0\.yaml:1: other: targt.*0\.yaml:5: third: schedule"):
        catalogue.check()


def test_a_catalogue_that_is_not_there_is_a_mistake(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="No such file"):
        load(tmp_path / "nowhere.yaml").check()


@pytest.mark.parametrize("content", ["", "# nothing yet\n", "[]\n"])
def test_a_catalogue_may_be_empty(folder: Path, content: str) -> None:
    catalogue = read(folder, content)
    catalogue.check()
    assert catalogue.entries == ()


def test_two_entries_may_have_one_model_if_one_of_them_is_off(folder: Path) -> None:
    catalogue = read(folder, GOOD, entry(model="org/good", enabled="false"))
    catalogue.check()
    assert [entry.name for entry in catalogue.followed] == ["good"]


def test_settings_can_be_shared(folder: Path) -> None:
    text = entry(settings="&small {max_batch_size: 2}") + entry(
        name="third", model="org/third", settings="{<<: *small, calib_size: 8}"
    )
    assert [entry.request.max_batch_size for entry in read(folder, text).entries] == [2, 2]


@pytest.mark.parametrize(
    ("since", "until", "due"),
    [
        pytest.param("02:58", "02:59", False, id="before"),
        pytest.param("02:59", "03:00", True, id="at"),
        pytest.param("03:00", "03:01", False, id="after"),
        pytest.param("01:00", "09:00", True, id="the scheduler was down"),
    ],
)
def test_an_entry_is_due_if_its_time_is_in_the_window(since: str, until: str, due: bool) -> None:
    daily = Entry(name="x", model="org/x", target="openvino", schedule="0 3 * * *")
    first, last = (datetime.fromisoformat(f"2026-11-05T{time}").replace(tzinfo=UTC) for time in (since, until))
    assert (daily.next_look(first) <= last) is due


def test_the_catalogue_that_comes_along_is_right_and_starts_nothing() -> None:
    catalogue = load(Settings.model_fields["catalogue"].default)
    catalogue.check()
    assert catalogue.entries
    assert catalogue.followed == ()


def test_the_example_in_the_docs_is_right(folder: Path) -> None:
    page = (PROJECT / "docs" / "schedules.md").read_text()
    catalogue = read(folder, re.search(r"```yaml\n(.*?)```", page, re.DOTALL)[1])
    catalogue.check()
    assert names(catalogue) == ["mistral-7b", "smollm2"]
    assert set(Entry.model_fields) - {"trust_remote_code"} <= set(re.findall(r"^[- ] (\w+):", page, re.MULTILINE))
