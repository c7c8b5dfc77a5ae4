"""The store, read into the cards of served names."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path

from include.releases.records import Release, ReleaseStore
from include.report.files import read
from include.report.models import Candidate, Card, Line
from include.report.urls import urls

_LONGEST_HISTORY = 100


class Snapshot(ReleaseStore):
    """The releases as one page sees them: each record is read once, however often it is asked for."""

    def __init__(self, root: Path, default: str | None = None) -> None:
        super().__init__(root, default=default)
        self._seen: dict[str, list[Release]] = {}

    def all(self, model: str) -> list[Release]:
        """A model's releases, oldest first."""
        if model not in self._seen:
            self._seen[model] = super().all(model)
        return self._seen[model]


@dataclass(frozen=True)
class Served:
    """The served names of a deployment. ``answers`` asks the live model of a name; ``address`` is the URL of all.

    ``curl`` is the beginning of a command that asks there.
    """

    releases: Snapshot
    answers: Callable[[str], bool]
    address: str
    candidates: tuple[Candidate, ...] = ()
    curl: str = "curl -s"

    def cards(self) -> list[Card]:
        """A card for each name, with the report of the live release alone: the live names first, the default before."""
        cards = [self._card(name, all_reports=False) for name in self.releases.names()]
        return sorted(cards, key=lambda card: (card.live is None, not card.is_default, card.name))

    def card(self, name: str) -> Card | None:
        """The card of a name with all reports; None if no release has the name."""
        card = self._card(name, all_reports=True)
        return card if card.lines else None

    @cached_property
    def _default(self) -> str | None:
        return self.releases.default_name()

    def _card(self, name: str, *, all_reports: bool) -> Card:
        live, history = self.releases.live_id(name), self.releases.of_name(name)[::-1]
        shown = [r for number, r in enumerate(history) if number < _LONGEST_HISTORY or r.id == live]
        lines = tuple(self._line(r, with_report=all_reports or r.id == live) for r in shown)
        current = next((line for line in lines if line.release.id == live), None)
        previous = self.releases.previous(name)
        ids = {release.id for release in history}
        return Card(
            name=name,
            is_default=name == self._default,
            lines=lines,
            live=current,
            previous=previous.id if previous else None,
            since=self.releases.live_since(name) if current else None,
            answers=self.answers(name) if current else None,
            now=datetime.now(UTC),
            urls=urls(self.address, name),
            curl=self.curl,
            candidates=tuple(one for one in self.candidates if one.release in ids),
        )

    def _line(self, release: Release, *, with_report: bool) -> Line:
        releases = self.releases
        report = read(releases.path(release), releases.note) if with_report else None
        return Line(release, releases.state(release), releases.is_pruned(release), report)
