"""The catalogue: what is wrong is named by file, line, entry and field, and the other entries are read all the same."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
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
        pytest.param(entry(schedule='"0 0 30 2 *"'), "other", "never comes, such as 30 February", id="30 February"),
        pytest.param(entry(schedule='"0 0 31 4,6,9,11 *"'), "other", "never comes", id="31 April"),
        pytest.param(entry(schedule='"R R * * *"'), "other", "schedule: ", id="random cron"),
        pytest.param(entry(schedule='"CRON_TZ=Mars/Base 0 0 * * *"'), "other", "schedule: ", id="cron with a zone"),
        pytest.param(entry(schedule="2026-11-28"), "other", "schedule: ", id="a date for a cron"),
        pytest.param(entry(schedule="2026-13-45"), "other", "a value cannot be read", id="a date that is none"),
        pytest.param(entry(schedule="'@reboot'"), "other", "schedule: ", id="no time at all"),
        pytest.param(entry(schedule='"' + "1," * 90_00 + '1 * * * *"'), "other", "schedule: ", id="endless cron"),
        pytest.param(entry(timezone="Mars/Base"), "other", "timezone: there is no such field", id="time zone"),
        pytest.param(entry(revision="0x_"), "other", "a value cannot be read", id="no number"),
        pytest.param(entry(revision="1" * 5000), "other", "a value cannot be read", id="5,000 digits"),
        pytest.param(entry(revision="!!timestamp x"), "other", "a value cannot be read", id="tag of another type"),
        pytest.param(entry(revision="!!python/name:os.system x"), "other", "a value cannot be read", id="python tag"),
        pytest.param(entry(model="{? [a] : b}"), "other", "a value cannot be read", id="list as key"),
        pytest.param(entry(**{"1": "x"}), "other", "1: Keys should be strings", id="number as key"),
        pytest.param(entry(settings="{1: 2}"), "other", "settings.1", id="number as a setting's key"),
        pytest.param(entry(settings="{min_speed_ratio: .nan}"), "other", "min_speed_ratio: ", id="nan"),
        pytest.param(entry(settings="{calib_size: " + "9" * 400 + "}"), "other", "calib_size: ", id="400 digits"),
        pytest.param(entry(name="[x, y]"), "entry of line 1", "name: ", id="list for a name"),
        pytest.param(entry(name="2026-11-28"), "2026-11-28", "name: ", id="date for a name"),
        pytest.param("- []\n", "entry of line 1", "not a mapping", id="a list for an entry"),
        pytest.param("-\n", "entry of line 1", "not a mapping", id="an empty entry"),
        pytest.param(entry(trust_remote_code="true"), "other", "no stage runs code", id="remote code"),
        pytest.param(entry(only_commits="[main]"), "other", "only_commits.0: ", id="a branch for a commit"),
        pytest.param(entry(model="/srv/m", only_commits=f"[{COMMIT}]"), "other", "only_commits", id="pinned directory"),
        pytest.param(entry(name='"a/b"'), "a/b", "name: ", id="name"),
        pytest.param(entry() + "  model: org/third\n", "other", "model stands twice", id="a key twice"),
        pytest.param("- just text\n", "entry of line 1", "not a mapping", id="no mapping"),
        pytest.param("- {model: org/other, target: openvino}\n", "entry of line 1", "name: Field", id="no name"),
        pytest.param(entry(name="good"), "good", "name: another entry", id="name taken"),
        pytest.param(entry(model="org/good"), "other", "model: entry good is served as good already", id="model taken"),
        pytest.param(entry(settings="{aliases: [good]}"), "other", "entry good is served as good already", id="alias"),
    ],
)
def test_a_mistake_is_named_and_costs_its_own_entry_alone(folder: Path, text: str, where: str, what: str) -> None:
    catalogue = read(folder, GOOD + entry(name="before", model="org/before"), text + entry(name="z", model="org/z"))
    assert names(catalogue) == ["good", "before", "z"]
    (problem,) = catalogue.problems
    assert str(problem).startswith(f"{folder}/1.yaml:1: {where}: ")
    assert what in problem.what


LAUGHS = "&a0 [x, x, x, x, x, x, x, x, x, x]"
for _level in range(8):
    LAUGHS = f"[&a{_level + 1} [{', '.join([LAUGHS] + [f'*a{_level}'] * 9)}]]"
UNREADABLE = [
    pytest.param(entry(settings="[" * 30 + "]" * 30), "nested deeper than 20 levels", id="nested lists"),
    pytest.param(entry(settings="[" * 50_000), "nested deeper than 20 levels", id="nested without end"),
    pytest.param(entry(settings="\n   " + "- " * 5000 + "x"), "nested deeper", id="nested lists in lines"),
    pytest.param(entry(settings=LAUGHS), "", id="a billion laughs"),
    pytest.param(entry(settings="&a {<<: [*a]}"), "contains itself", id="an anchor in itself"),
    pytest.param(entry(settings="*nowhere"), "undefined alias", id="an alias of nothing"),
    pytest.param(entry(settings="{a: [1, 2}"), "line", id="an open bracket"),
    pytest.param(entry(settings='{a: "x}'), "line", id="an open quote"),
    pytest.param("- name: other\n\tmodel: org/other\n", "cannot start any token", id="a tab"),
    pytest.param(entry(settings="{a: @x}"), "cannot start any token", id="a reserved character"),
    pytest.param(entry(revision='"\\U99999999"'), "too large", id="an escape of no character"),
    pytest.param(entry(revision='"\\q"'), "unknown escape", id="an unknown escape"),
    pytest.param(entry(revision="a\x07b"), "special characters", id="a bell"),
    pytest.param(entry(revision="a: b: c"), "not allowed here", id="two colons"),
    pytest.param(entry(revision="!x!y z"), "undefined tag handle", id="an unknown tag handle"),
]


@pytest.mark.parametrize(("text", "what"), UNREADABLE)
def test_what_is_no_yaml_costs_its_own_entry_alone(folder: Path, text: str, what: str) -> None:
    catalogue = read(folder, entry(name="before", model="org/before") + text + GOOD)
    assert names(catalogue) == ["before", "good"]
    (problem,) = catalogue.problems
    assert problem.where == f"{folder}/0.yaml:4"
    assert problem.name == "other"
    assert what in problem.what


def test_an_anchor_that_is_merged_a_billion_times_costs_its_own_entry_alone(folder: Path) -> None:
    lines = ["x0: &b0 {a: 1}", *(f"x{n}: &b{n} {{<<: [{', '.join([f'*b{n - 1}'] * 10)}]}}" for n in range(1, 10))]
    catalogue = read(folder, "- name: other\n  " + "\n  ".join(lines) + "\n" + GOOD)
    assert names(catalogue) == ["good"]
    assert "stands for more than" in catalogue.problems[0].what


def test_a_file_with_many_bad_entries_is_left(folder: Path) -> None:
    catalogue = read(folder, entry(settings="*x") * 50 + GOOD, entry(name="fine"))
    assert names(catalogue) == ["fine"]
    assert len(catalogue.problems) == 21


def test_a_line_between_two_entries_costs_none(folder: Path) -> None:
    catalogue = read(folder, GOOD + "stray: 1\n" + entry())
    assert names(catalogue) == ["good", "other"]
    assert [problem.where for problem in catalogue.problems] == [f"{folder}/0.yaml:4"]


@pytest.mark.parametrize("text", ["---\n" + GOOD + "---\n" + entry(), "---\n---\n" + GOOD + "...\n---\n" + entry()])
def test_a_file_may_have_several_documents(folder: Path, text: str) -> None:
    catalogue = read(folder, text)
    catalogue.check()
    assert names(catalogue) == ["good", "other"]


FILES: dict[str, tuple[Callable[[Path], object], str]] = {
    "fifo": (os.mkfifo, "a FIFO"),
    "device": (lambda path: path.symlink_to("/dev/zero"), "a device"),
    "endless link": (lambda path: path.symlink_to(path.name), "symbolic links"),
    "directory": (Path.mkdir, "Is a directory"),
    "large": (lambda path: path.write_text("# long\n" * 100_000), "larger than"),
    "not utf-8": (lambda path: path.write_bytes(b"\xff\xff"), "utf-8"),
}


@pytest.mark.parametrize(("make", "what"), FILES.values(), ids=FILES)
@pytest.mark.parametrize("alone", [True, False], ids=["alone", "in a directory"])
def test_what_is_no_file_costs_no_other(folder: Path, alone: bool, make: Callable[[Path], object], what: str) -> None:
    make(folder / "bad.yaml")
    if alone and (folder / "bad.yaml").is_dir():
        return  # as a catalogue it is empty
    catalogue = load(folder / "bad.yaml") if alone else read(folder, GOOD)
    assert names(catalogue) == ([] if alone else ["good"])
    (problem,) = catalogue.problems
    assert what in problem.what


def test_names_and_texts_of_problems_can_be_shown_everywhere(folder: Path) -> None:
    (problem,) = read(folder, entry(name='"\\e[31m\\0' + "x" * 10_000 + '"')).problems
    assert problem.name.startswith("\\x1b[31m\\x00xxx")
    assert len(problem.name) == 60
    assert str(problem).isprintable()


def test_many_entries_are_read_in_a_moment(folder: Path) -> None:
    many = "".join(entry(name=f"n{number}", model=f"org/m{number}") for number in range(500))
    catalogue = read(folder, many)
    catalogue.check()
    assert len(catalogue.entries) == 500


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
