"""The catalogue: the models that DAG `rebuild_on_change` follows, as YAML. Described in docs/schedules.md.

A mistake is a `Problem` of one entry or of one file; the other entries are read all the same.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Self

import yaml
from croniter import croniter
from pydantic import Field, field_validator, model_validator

from include.errors import UserError
from include.requests.release import Form, ReleaseRequest

Commit = Annotated[str, Field(pattern=r"^[0-9a-f]{40}$(?!\n)")]
_OF_THE_ENTRY = ("model", "revision", "target", "require_approval")
_CRON_FIELDS = 5


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
        if not croniter.is_valid(value) or not (value.startswith("@") or len(value.split()) == _CRON_FIELDS):
            raise ValueError(f"{value!r} is not a cron expression of five fields, nor one such as @daily")
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
    for file in sorted(path.glob("*.yaml")) if path.is_dir() else [path]:
        for found in _read(file):
            if isinstance(found, Problem):
                problems.append(found)
            elif problem := _clash(*found, entries):
                problems.append(problem)
            else:
                entries.append(found[0])
    return Catalogue(path, tuple(entries), tuple(problems))


class _Loader(yaml.SafeLoader):
    """Refuses a key that stands twice: YAML itself would silently take the second."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value]
        if twice := {key for key in keys if keys.count(key) > 1}:
            raise yaml.constructor.ConstructorError(problem=f"{', '.join(twice)} stands twice")
        return dict(super().construct_mapping(node, deep))


def _read(file: Path) -> Iterator[tuple[Entry, str] | Problem]:
    try:
        loader = _Loader(file.read_text(encoding="utf-8"))
        top = loader.get_single_node()
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        yield Problem(str(file), file.name, f"cannot be read: {_reason(error)}")
        return
    if isinstance(top, yaml.SequenceNode):
        for node in top.value:
            yield _entry(loader, node, f"{file}:{node.start_mark.line + 1}")
    elif top is not None:
        yield Problem(str(file), file.name, "is not a list of entries (`- name: ...`)")


def _entry(loader: _Loader, node: yaml.Node, where: str) -> tuple[Entry, str] | Problem:
    name = _name(node)
    if not isinstance(node, yaml.MappingNode):
        return Problem(where, name, "is not a mapping (`name: ...`)")
    try:
        entry = Entry.parse(loader.construct_document(node))
        entry.request  # noqa: B018 - its settings are in their limits
    except yaml.YAMLError as error:
        return Problem(where, name, _reason(error))
    except UserError as error:
        return Problem(where, name, error.what)
    return entry, where


def _name(node: yaml.Node) -> str:
    """The name of an entry, valid or not."""
    pairs = node.value if isinstance(node, yaml.MappingNode) else []
    named = (str(value.value) for key, value in pairs if key.value == "name" and isinstance(value, yaml.ScalarNode))
    return next(named, f"entry of line {node.start_mark.line + 1}")


def _clash(entry: Entry, where: str, entries: list[Entry]) -> Problem | None:
    """One entry a model: one model has one live release, and two entries would take turns in replacing it."""
    if any(entry.name == other.name for other in entries):
        return Problem(where, entry.name, "name: another entry has this name")
    followed = [e for e in entries if e.enabled and entry.enabled and e.request.slug == entry.request.slug]
    if followed:
        return Problem(where, entry.name, f"model: entry {followed[0].name} follows {entry.model} already")
    return None


def _reason(error: OSError | UnicodeDecodeError | yaml.YAMLError) -> str:
    if isinstance(error, OSError):
        return str(error.strerror)
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark:
        return f"line {error.problem_mark.line + 1}: {error.problem}"
    return str(error)
