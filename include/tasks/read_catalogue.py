"""Task ``read_catalogue``: the followed models that are due."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

from include.context import Context
from include.errors import UserError
from include.frozen import Frozen
from include.requests.catalogue import Catalogue, Entry, Problem, load
from include.requests.operations import CatalogueCheck


class Window(Frozen):
    """The times of schedules that a run answers for: after ``since``, and not after ``until``."""

    since: datetime
    until: datetime


class DueEntry(Frozen):
    """An entry to look at, or the problem with it."""

    name: str
    entry: Entry | None = None
    problem: str = ""


def run(context: Context, params: Mapping[str, Any], window: Window | None) -> list[DueEntry]:
    """The entries that are due, and all that cannot be read. Without a window, those that the params name.

    Raises:
        UserError: the params name an entry that is not there or not enabled.
    """
    check = CatalogueCheck.parse(dict(params))
    catalogue = load(context.settings.catalogue)
    due = [DueEntry(name=entry.name, entry=entry) for entry in _choose(context, catalogue, check, window)]
    return due + [_broken(context, problem) for problem in catalogue.problems]


def _choose(context: Context, catalogue: Catalogue, check: CatalogueCheck, window: Window | None) -> Iterable[Entry]:
    named = _named(catalogue, check.entries)
    for entry in catalogue.entries:
        if not entry.enabled:
            context.log(f"{entry.name}: not enabled")
        elif window and entry.next_look(window.since) > window.until:
            context.log(f"{entry.name}: not due before {entry.next_look(window.until):%Y-%m-%d %H:%M} UTC")
        elif entry.name in named:
            context.log(f"{entry.name}: due")
            yield entry


def _named(catalogue: Catalogue, names: list[str]) -> set[str]:
    followed = {entry.name for entry in catalogue.followed}
    for name in names:
        if name not in followed:
            near = difflib.get_close_matches(name, followed, n=1)
            raise UserError(
                f"no entry {name!r} is enabled" + (f"; did you mean {near[0]!r}?" if near else ""),
                where="field entries",
                fix=f"give names of the catalogue {catalogue.path}, or none",
            )
    return set(names) or followed


def _broken(context: Context, problem: Problem) -> DueEntry:
    context.log(f"{problem.name}: error in {problem.where}: {problem.what}")
    return DueEntry(name=problem.name, problem=str(problem))
