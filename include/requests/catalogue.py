"""The catalogue: the models that DAG `rebuild_on_change` follows, as YAML. Described in docs/schedules.md.

A mistake is a `Problem` of one entry or of one file; the other entries are read all the same.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Self

import yaml
from croniter import CroniterError, croniter
from pydantic import Field, field_validator, model_validator

from include.errors import UserError, printable
from include.reading import Limit, read_text
from include.requests.release import Form, ReleaseRequest

Commit = Annotated[str, Field(pattern=r"^[0-9a-f]{40}$(?!\n)")]
_OF_THE_ENTRY = ("model", "revision", "target", "require_approval")
_CRON_FIELDS = 5
_LONGEST_CRON = 100
_LONGEST_NAME = 60
# Of one entry, with all aliases in place of their anchors: ten lines of YAML can stand for a billion nodes.
_MOST_NODES, _MOST_LEVELS = 10_000, 20
_MOST_BAD_ENTRIES = 20
"""In a file; each costs another pass over it."""


class Entry(Form):
    """One model that is followed. ``settings``: any other fields of `ReleaseRequest`.

    ``only_commits``: the only commits that are built; empty: any commit that ``revision`` names.
    """

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.\-]{0,59}$(?!\n)")
    model: str
    revision: str = "main"
    target: str
    settings: dict[str, Any] = Field(default_factory=dict)
    schedule: str = "@daily"
    require_approval: bool = False
    only_commits: tuple[Commit, ...] = ()
    trust_remote_code: bool = False
    enabled: bool = True

    @field_validator("schedule")
    @classmethod
    def _is_cron(cls, value: str) -> str:
        fields = value.split() if len(value) <= _LONGEST_CRON else []
        # croniter takes R and H for random numbers, new ones each time it is asked.
        known = fields and not any(field[0] in "RrHh" for field in fields) and croniter.is_valid(value)
        if not known or not (value.startswith("@") or len(fields) == _CRON_FIELDS):
            raise ValueError(
                f"{value[:_LONGEST_CRON]!r} is not a cron expression of five fields, nor one such as @daily"
            )
        try:
            for find in (croniter.get_next, croniter.get_prev):  # Airflow looks both ways, and would end all schedules
                find(croniter(value, datetime.now(UTC)))
        except CroniterError as error:
            raise ValueError(f"{value!r} names a time that never comes, such as 30 February") from error
        return value

    @field_validator("settings")
    @classmethod
    def _stand_in_one_place(cls, value: dict[str, Any]) -> dict[str, Any]:
        if misplaced := [field for field in _OF_THE_ENTRY if field in value]:
            raise ValueError(f"{', '.join(misplaced)} belongs beside settings, not into them")
        return value

    @field_validator("trust_remote_code")
    @classmethod
    def _runs_no_remote_code(cls, value: bool) -> bool:
        if value:
            raise ValueError(
                "no stage runs code out of a model's repository, so it cannot be allowed; remove the line, and follow "
                "a model that Transformers itself has the code of"
            )
        return value

    @model_validator(mode="after")
    def _commits_are_of_the_hub(self) -> Self:
        if self.only_commits and self.model.startswith("/"):
            raise ValueError("only_commits: a local directory has no commits; pin a model of the Hub, or remove them")
        return self

    @property
    def request(self) -> ReleaseRequest:
        """The request of a run; raises `UserError` that names the field."""
        return ReleaseRequest.parse({**self.settings, **{field: getattr(self, field) for field in _OF_THE_ENTRY}})

    def next_look(self, after: datetime) -> datetime:
        """The first time of its schedule (UTC) after that one."""
        found: datetime = croniter(self.schedule, after).get_next(datetime)
        return found


@dataclass(frozen=True)
class Problem:
    """A mistake in one entry or in a whole file: ``where`` is the file and line, ``name`` the name of the entry."""

    where: str
    name: str
    what: str

    def __str__(self) -> str:
        return f"{self.where}: {self.name}: {self.what}"


@dataclass(frozen=True)
class Catalogue:
    """The entries that can be used, in their order, and the problems of the others."""

    path: Path
    entries: tuple[Entry, ...]
    problems: tuple[Problem, ...]

    @property
    def followed(self) -> tuple[Entry, ...]:
        """The entries that are enabled."""
        return tuple(entry for entry in self.entries if entry.enabled)

    def check(self) -> None:
        """Raises `UserError` with every problem there is."""
        if self.problems:
            raise UserError(
                "\n".join(map(str, self.problems)),
                where=f"catalogue {self.path}",
                fix="correct these entries; the others are followed all the same",
            )


def load(path: Path) -> Catalogue:
    """Reads a YAML file, or all ``*.yaml`` of a directory. Nothing is raised, and nothing asked over the network."""
    entries: list[Entry] = []
    problems: list[Problem] = []
    taken: dict[str, Entry] = {}
    for found in _found(path):
        if isinstance(found, Problem):
            problems.append(found)
        elif problem := _clash(*found, taken):
            problems.append(problem)
        else:
            entries.append(found[0])
    return Catalogue(path, tuple(entries), tuple(problems))


def _found(path: Path) -> Iterator[tuple[Entry, str] | Problem]:
    try:
        files = sorted(file for file in path.iterdir() if file.match("*.yaml")) if path.is_dir() else [path]
    except OSError as error:
        files = []
        yield _problem(path, path.name, _reason(error))
    for file in files:
        yield from _read(file)


class _Loader(yaml.SafeLoader):
    """YAML within limits, which `_MOST_NODES` explains.

    It refuses a key that stands twice: YAML itself would silently take the second.
    """

    def __init__(self) -> None:
        super().__init__("")
        self._level = 0
        self._sizes: dict[int, tuple[int, int]] = {}

    def tops(self, text: str) -> list[yaml.Node]:
        """The top node of each document in ``text``."""
        super().__init__(text)
        found: list[yaml.Node] = []
        while self.check_node():
            found.append(self.get_node())  # type: ignore[arg-type] # there is one
        return found

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node:  # noqa: ANN401 - the library's own
        event: yaml.Event = self.peek_event()  # type: ignore[no-untyped-call]
        self._level += 1
        if self._level > _MOST_LEVELS:
            raise _too_large(f"it is nested deeper than {_MOST_LEVELS} levels", event)
        node: yaml.Node = super().compose_node(parent, index)  # type: ignore[assignment] # None only at a stream's end
        self._level -= 1
        if not isinstance(event, yaml.AliasEvent):
            self._sizes[id(node)] = self._size(node)
        elif id(node) not in self._sizes:
            raise _too_large("it contains itself", event)
        nodes, levels = self._sizes[id(node)]
        if self._level and (nodes > _MOST_NODES or levels > _MOST_LEVELS):
            raise _too_large(f"it stands for more than {_MOST_NODES} values or {_MOST_LEVELS} levels", event)
        return node

    def _size(self, node: yaml.Node) -> tuple[int, int]:
        """How many nodes and levels it stands for."""
        parts = node.value if isinstance(node, yaml.CollectionNode) else []
        inner = [part for pair in parts for part in pair] if isinstance(node, yaml.MappingNode) else parts
        sizes = [self._sizes[id(part)] for part in inner]
        return 1 + sum(size[0] for size in sizes), 1 + max((size[1] for size in sizes), default=0)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = Counter(key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode))
        if twice := [key for key, count in keys.items() if count > 1]:
            raise yaml.constructor.ConstructorError(problem=f"{', '.join(twice)} stands twice")
        return dict(super().construct_mapping(node, deep))


def _too_large(problem: str, event: yaml.Event) -> yaml.YAMLError:
    return yaml.composer.ComposerError(None, None, problem, event.start_mark)  # type: ignore[arg-type] # of the pure parser


def _read(file: Path) -> Iterator[tuple[Entry, str] | Problem]:
    try:
        text = _Text(read_text(file, Limit.CATALOGUE))
    except (OSError, ValueError) as error:
        yield _problem(file, file.name, f"cannot be read: {_reason(error)}")
        return
    for _ in range(_MOST_BAD_ENTRIES):
        loader = _Loader()
        try:
            tops = loader.tops(str(text))
        except Exception as error:  # numbers and escapes of the syntax end in errors of Python's own
            start, name = text.leave_out(_line(error, str(text), loader))
            yield _problem(f"{file}:{start + 1}", name or file.name, f"cannot be read: {_reason(error)}")
        else:
            yield from _entries(file, loader, tops)
            return
    yield _problem(file, file.name, f"has {_MOST_BAD_ENTRIES} entries that cannot be read: the others are not, either")


def _entries(file: Path, loader: _Loader, tops: list[yaml.Node]) -> Iterator[tuple[Entry, str] | Problem]:
    for top in tops:
        if isinstance(top, yaml.SequenceNode):
            for node in top.value:
                yield _entry(loader, node, f"{file}:{node.start_mark.line + 1}")
        elif not top.tag.endswith(":null"):
            yield _problem(file, file.name, "is not a list of entries (`- name: ...`)")


_BREAK = re.compile(r"\r\n|[\r\n\x85\u2028\u2029]")
"""The line breaks of YAML."""


class _Text:
    """The lines of a file, of which entries that are no YAML can be left out: the others keep their lines."""

    def __init__(self, text: str) -> None:
        self._lines = _BREAK.split(text)
        first = next((dash for line in self._lines if (dash := re.match(r" *(?=-(?:\s|$))", line))), None)
        indent = len(first[0]) if first else 0
        top = re.compile(rf" {{0,{indent}}}(?![\s#]|---|\.\.\.|$)")
        self._starts = [number for number, line in enumerate(self._lines) if top.match(line)] if first else []

    def __str__(self) -> str:
        return "\n".join(self._lines)

    def leave_out(self, line: int) -> tuple[int, str]:
        """Leaves out the entry of ``line``, or all lines if it is in none; returns its first line, and its name."""
        start = max((number for number in self._starts if number <= line), default=0)
        end = min((number for number in self._starts if number > line), default=len(self._lines))
        if start not in self._starts:
            self._starts, end = [], len(self._lines)
        self._starts = [number for number in self._starts if number != start]
        named = re.search(r"\bname: *([A-Za-z0-9][A-Za-z0-9_.\-]*)", "\n".join(self._lines[start:end]))
        self._lines[start:end] = [""] * (end - start)
        return start, named[1] if named else ""


def _line(error: Exception, text: str, loader: _Loader) -> int:
    """The line, from 0, of the entry that an error is in: where what went wrong begins, not where it was noticed."""
    if isinstance(error, yaml.reader.ReaderError):
        return len(_BREAK.findall(text, 0, error.position))
    if isinstance(error, yaml.MarkedYAMLError):
        begin, end = error.context_mark, error.problem_mark
        if begin and begin.column:
            return begin.line
        if end:
            return end.line
    return int(loader.line)


def _entry(loader: _Loader, node: yaml.Node, where: str) -> tuple[Entry, str] | Problem:
    name = _name(node)
    if not isinstance(node, yaml.MappingNode):
        return _problem(where, name, "is not a mapping (`name: ...`)")
    try:
        entry = Entry.parse(loader.construct_document(node))
        entry.request  # noqa: B018 - its settings are in their limits
    except UserError as error:
        return _problem(where, name, error.what)
    except Exception as error:  # a value such as 0x_ or 2026-13-45 ends in an error of its type's constructor
        return _problem(where, name, f"a value cannot be read: {_reason(error)}")
    return entry, where


def _problem(where: object, name: str, what: str) -> Problem:
    return Problem(printable(str(where)), printable(name)[:_LONGEST_NAME], printable(what)[:1000])


def _name(node: yaml.Node) -> str:
    """The name of an entry, valid or not."""
    pairs = node.value if isinstance(node, yaml.MappingNode) else []
    named = (str(value.value) for key, value in pairs if key.value == "name" and isinstance(value, yaml.ScalarNode))
    return next(named, f"entry of line {node.start_mark.line + 1}")


def _clash(entry: Entry, where: str, taken: dict[str, Entry]) -> Problem | None:
    """One entry a served name: a name has one live release, and two entries would take turns in replacing it."""
    name = f"name {entry.name}"
    served = [f"served as {one}" for one in (entry.request.name, *entry.request.aliases)]
    if name in taken:
        return _problem(where, entry.name, "name: another entry has this name")
    if entry.enabled and (clash := next((one for one in served if one in taken), None)):
        what = f"model: entry {taken[clash].name} is {clash} already; give settings a served_name of its own"
        return _problem(where, entry.name, what)
    taken |= dict.fromkeys([name, *served] if entry.enabled else [name], entry)
    return None


def _reason(error: Exception) -> str:
    if isinstance(error, OSError):
        return str(error.strerror)
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark:
        return f"line {error.problem_mark.line + 1}: {error.problem}"
    if isinstance(error, yaml.MarkedYAMLError):
        return str(error.problem)
    return str(error) or type(error).__name__
