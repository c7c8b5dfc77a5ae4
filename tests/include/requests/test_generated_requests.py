"""Generated requests and catalogues: our own errors only, and an entry that is right is read beside any other."""

from __future__ import annotations

from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from include.errors import UserError
from include.requests.catalogue import Entry, load
from include.requests.operations import CatalogueCheck, PruneRequest, RollbackRequest
from include.requests.release import Form, ReleaseRequest
from tests.support import generated

FORMS: tuple[type[Form], ...] = (ReleaseRequest, ReleaseRequest, RollbackRequest, PruneRequest, CatalogueCheck)
GOOD = "- name: good\n  model: org/good\n  target: openvino\n"
ENTRY: dict[str, Any] = {
    "name": "other",
    "model": "org/other",
    "target": "openvino",
    "schedule": "0 3 * * 6",
    "settings": {"awq_group_size": 64, "test_prompts": ["a"], "approvers": ["ann"]},
    "only_commits": ["0" * 40],
}


def confs(form: type[Form]) -> st.SearchStrategy[dict[str, Any]]:
    """The conf of a run, as REST takes it: fields of the form with any value, and others."""
    known = st.dictionaries(st.sampled_from(sorted(form.model_fields)), generated.values(), max_size=5)
    return known | st.dictionaries(st.text(max_size=30), generated.values(), max_size=3)


ASKED = st.one_of([st.tuples(st.just(form), confs(form)) for form in FORMS])


@generated.bounded(200)
@given(asked=ASKED)
def test_a_request_is_right_or_the_users_matter(asked: tuple[type[Form], dict[str, Any]]) -> None:
    form, conf = asked
    with suppress(UserError):
        form.model_validate_json(form.parse(conf).model_dump_json())


MARKS = (
    "- |  |: |? |[|]|{|}|&a |*a|<<|!!int |!x!|>|'|#|%|@|`|0x_|2026-13-45|1:99:99|\\U99999999|name|x|\x07|~|.inf|\"|\t"
)
SYNTAX = st.lists(st.sampled_from([*MARKS.split("|"), "\n", "|\n", "---\n", "...\n"]), max_size=25).map("".join)
FIELDS = [
    "*",
    "0",
    "59",
    "60",
    "*/5",
    "*/0",
    "30",
    "2",
    "L",
    "L5",
    "5#5",
    "7#9",
    "?",
    "R",
    "H",
    "1-0",
    "sun",
    "feb",
    "W",
    "-1",
    "1,,2",
]
CRONS = st.lists(st.sampled_from(FIELDS), min_size=4, max_size=6).map(" ".join) | st.sampled_from(
    ["@daily", "@yearly", "@reboot", "@", "@every 5m", "@hourly x"]
)


def entries() -> st.SearchStrategy[str]:
    """An entry with changed values, one that is cut or has a wrong byte, or syntax without any sense."""
    changed = generated.changed(ENTRY).map(lambda text: f"- {text.decode()}\n")
    bytes_ = generated.cut(ENTRY).map(lambda text: f"- {text.decode('utf-8', 'replace')}\n")
    dumped = st.dictionaries(st.sampled_from(sorted(Entry.model_fields)), st.dates() | st.binary() | st.floats()).map(
        lambda fields: yaml.safe_dump([ENTRY | fields])
    )
    lines = SYNTAX.map(lambda text: f"- name: other\n  model: {text}\n")
    return changed | bytes_ | dumped | lines | SYNTAX.map(lambda text: f"- {text}\n")


@generated.bounded(250)
@given(text=entries())
@example(text="- &a [*a]\n")
@example(text="- {<<: 5}\n")
@example(text="- !!timestamp x\n")
def test_any_entry_leaves_the_entry_beside_it(tmp_path: Path, text: str) -> None:
    (tmp_path / "0.yaml").write_text(text, encoding="utf-8", errors="replace")
    (tmp_path / "1.yaml").write_text(GOOD)
    catalogue = load(tmp_path)
    assert "good" in [entry.name for entry in catalogue.entries]
    for entry in catalogue.entries:
        assert entry.request.model == entry.model
    assert all(str(problem).isprintable() or "\n" in str(problem) for problem in catalogue.problems)


@generated.bounded(200)
@given(text=st.binary(max_size=300) | SYNTAX.map(str.encode))
def test_any_file_leaves_the_file_beside_it(tmp_path: Path, text: bytes) -> None:
    (tmp_path / "0.yaml").write_bytes(text)
    (tmp_path / "1.yaml").write_text(GOOD)
    assert "good" in [entry.name for entry in load(tmp_path).entries]


@generated.bounded(200)
@given(schedule=CRONS)
def test_a_schedule_that_is_taken_comes_again(schedule: str) -> None:
    with suppress(UserError):
        entry = Entry.parse(ENTRY | {"schedule": schedule})
        now = datetime.now(UTC)
        assert entry.next_look(now) > now
