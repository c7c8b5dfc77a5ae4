"""The view of the served models: a card for each name, its history, two releases side by side, trends.

Pure functions from releases and their reports to data that does not change, which the templates only lay out.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from include.releases.ids import ReleaseId
from include.releases.records import Outage, Release, State
from include.report.charts import Trend, trend
from include.report.model import ReleaseReport, Scores
from include.stages.formats import DEFAULT, unused_fields

_SETTINGS = (
    "model",
    "target",
    "quantization",
    "dtype",
    "awq_group_size",
    "precision",
    "max_batch_size",
    "max_input_len",
    "max_seq_len",
    "streaming",
    "chat_template",
)
_SAME = 0.005
"""The share by which a figure may differ and still counts as the same: measurements differ by more."""
_ABSENT = "not a field then"


@dataclass(frozen=True)
class Line:
    """One release in the history of a name."""

    release: Release
    state: State
    pruned: bool
    report: ReleaseReport | None = None

    @property
    def scores(self) -> Scores:
        """The figures of its report; none without a report."""
        return self.report.scores if self.report else Scores()

    @property
    def settings(self) -> dict[str, Any]:
        """The fields of its request that say how it serves; those that only another format uses are not among them."""
        asked = self.release.request
        unused = unused_fields(str(asked.get("quantization", DEFAULT)))
        return {name: asked[name] for name in _SETTINGS if name in asked and name not in unused}

    @property
    def can_be_live_again(self) -> bool:
        """True if a rollback can bring it back: it was live, is not now, and its artifacts are there."""
        return self.state == "retired" and not self.pruned


@dataclass(frozen=True)
class Candidate:
    """A candidate server that runs now. ``key`` is the name of its record; ``run`` its run's name there."""

    key: str
    release: ReleaseId
    url: str
    streams: bool

    @property
    def run(self) -> str:
        """The name of its run in paths."""
        return self.key.removeprefix("candidate-")


@dataclass(frozen=True)
class Down:
    """An outage, and the release that did not answer."""

    release: ReleaseId
    outage: Outage


@dataclass(frozen=True)
class Card:
    """A served name now. ``lines`` is its history, newest first; ``since`` is when the live release went live.

    ``answers`` is None if the name is not live. ``urls`` are its addresses by what they are for, ``curl`` the beginning
    of a command that asks them.
    """

    name: str
    is_default: bool
    lines: tuple[Line, ...]
    live: Line | None
    previous: ReleaseId | None
    since: datetime | None
    answers: bool | None
    now: datetime
    urls: Mapping[str, str]
    curl: str = "curl -s"
    candidates: tuple[Candidate, ...] = ()

    @property
    def aliases(self) -> tuple[str, ...]:
        """Its other names, by the live release, else by the newest."""
        shown = self.live or (self.lines[0] if self.lines else None)
        return shown.release.aliases if shown else ()

    @property
    def outages(self) -> tuple[Down, ...]:
        """The known outages of all its releases, the newest first."""
        found = [Down(line.release.id, outage) for line in self.lines for outage in line.release.outages]
        return tuple(sorted(found, key=lambda down: down.outage.since, reverse=True))

    @property
    def uptime(self) -> float | None:
        """The share of the time since the last promotion in which no outage is known; None if it is not live."""
        if self.live is None or self.since is None:
            return None
        return uptime(self.since, self.now, self.live.release.outages)

    def label(self, release: ReleaseId) -> str:
        """The release in few words: by its number alone if the history is of one model."""
        models = {line.release.model for line in self.lines}
        return f"release {release.number}" if models == {release.model} else str(release)

    def rollback(self, release: ReleaseId) -> dict[str, str]:
        """The params of the run that rolls the name back to a release.

        A number means one release of a name, unless two models had the name; then the model stands for it.
        """
        numbers = [line.release.number for line in self.lines]
        whose = {"name": self.name} if numbers.count(release.number) == 1 else {"model": release.model}
        return {**whose, "to": str(release.number)}

    @property
    def last_promoted(self) -> Line | None:
        """The release that was live last, or is; None if none ever was."""
        promoted = [line for line in self.lines if line.release.promotions]
        return max(promoted, key=lambda line: line.release.promotions[-1].at, default=None)

    def line(self, release: str) -> Line | None:
        """The release of a name such as ``org--model/3`` in this history."""
        return next((line for line in self.lines if line.release.name == release), None)

    @property
    def trends(self) -> tuple[Trend, ...]:
        """The figures over the history that at least two releases have."""
        return trends([(self.label(line.release.id), line.scores) for line in self.lines[::-1]])


def uptime(since: datetime, now: datetime, outages: Iterable[Outage]) -> float:
    """The share of the time from ``since`` to ``now`` that lies in no outage."""
    whole = (now - since).total_seconds()
    if whole <= 0:
        return 1.0
    spans = ((max(one.since, since), min(one.until or now, now)) for one in outages)
    down = sum(max((end - begin).total_seconds(), 0) for begin, end in spans)
    return max(1 - down / whole, 0.0)


@dataclass(frozen=True)
class Change:
    """One field in which two requests differ."""

    field: str
    before: Any
    after: Any


@dataclass(frozen=True)
class Figure:
    """One figure of two releases; ``better`` is the direction of improvement."""

    title: str
    before: float | None
    after: float | None
    better: Literal["more", "less"]

    @property
    def change(self) -> float | None:
        """The change as a share; None if one was not measured or is zero."""
        if self.before is None or self.after is None or not self.before:
            return None
        share = self.after / self.before - 1
        return share if math.isfinite(share) else None

    @property
    def judgement(self) -> str:
        """``better``, ``worse``, or ``same``; empty if they cannot be compared."""
        if self.change is None:
            return ""
        if abs(self.change) < _SAME:
            return "same"
        return "better" if (self.change > 0) == (self.better == "more") else "worse"


@dataclass(frozen=True)
class Answers:
    """The answers of two releases to one prompt, and the original model's; None where it was not asked.

    ``original`` is None, too, where the releases have different originals.
    """

    prompt: str
    before: str | None
    after: str | None
    original: str | None = None


@dataclass(frozen=True)
class Comparison:
    """Two releases side by side."""

    before: Line
    after: Line
    changes: tuple[Change, ...]
    figures: tuple[Figure, ...]
    answers: tuple[Answers, ...]


def compare(before: Line, after: Line) -> Comparison:
    """All in which two releases differ that their records and reports tell."""
    return Comparison(
        before=before,
        after=after,
        changes=_changes(_asked(before.release), _asked(after.release)),
        figures=_figures(before.scores, after.scores),
        answers=_answers(before.report, after.report),
    )


def chosen(card: Card, before: str | None, after: str | None) -> Comparison | None:
    """The comparison of the releases of these names; by default of the live one with the one before it.

    None if the history has fewer than two releases.
    """
    if len(card.lines) < 2:
        return None
    second = (card.line(after) if after else None) or card.live or card.lines[0]
    first = (card.line(before) if before else None) or _default_rival(card, second)
    if not (before or after) and card.lines.index(first) < card.lines.index(second):
        first, second = second, first  # a newer one has not been live yet
    return compare(first, second)


def _default_rival(card: Card, line: Line) -> Line:
    if card.previous and card.previous != line.release.id and (found := card.line(str(card.previous))):
        return found
    at = card.lines.index(line)
    return card.lines[at + 1] if at + 1 < len(card.lines) else card.lines[at - 1]


def trends(history: Sequence[tuple[str, Scores]]) -> tuple[Trend, ...]:
    """The trends of labelled figures, oldest first: perplexity, agreement, speed under the least and greatest load."""
    labels, scores = [label for label, _ in history], [score for _, score in history]
    clients = sorted({number for score in scores for number in score.tokens_per_s})
    speeds = {n: [score.tokens_per_s.get(n) for score in scores] for n in clients[:1] + clients[-1:]}
    made = (
        trend("Perplexity", "after quantization", "less", labels, [score.perplexity_after for score in scores]),
        trend("Agreement", "with the checkpoint", "more", labels, [score.agreement for score in scores]),
        *(trend(f"Speed, {_clients(n)}", "tokens/s", "more", labels, values) for n, values in speeds.items()),
    )
    return tuple(one for one in made if one)


def _asked(release: Release) -> dict[str, Any]:
    """The request, with the commit that the model's revision meant then."""
    return {**release.request, "commit": release.chain.get("model", "").rpartition("@")[2] or None}


def _changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> tuple[Change, ...]:
    fields = [*before, *(name for name in after if name not in before)]
    values = ((name, before.get(name, _ABSENT), after.get(name, _ABSENT)) for name in fields)
    return tuple(Change(name, old, new) for name, old, new in values if old != new)


def _figures(before: Scores, after: Scores) -> tuple[Figure, ...]:
    loads = sorted({*before.tokens_per_s, *after.tokens_per_s})
    figures = (
        Figure("Perplexity before quantization", before.perplexity_before, after.perplexity_before, "less"),
        Figure("Perplexity after quantization", before.perplexity_after, after.perplexity_after, "less"),
        Figure("Agreement with the checkpoint", before.agreement, after.agreement, "more"),
        *(
            Figure(f"Tokens/s, {_clients(n)}", before.tokens_per_s.get(n), after.tokens_per_s.get(n), "more")
            for n in loads
        ),
    )
    return tuple(figure for figure in figures if figure.before is not None or figure.after is not None)


def _answers(before: ReleaseReport | None, after: ReleaseReport | None) -> tuple[Answers, ...]:
    first, second = ({one.prompt: one.answer for one in report.answers} if report else {} for report in (before, after))
    originals: dict[str, set[str]] = {}
    for sample in (sample for report in (before, after) if report for sample in report.answers):
        if sample.original is not None:
            originals.setdefault(sample.prompt, set()).add(sample.original)
    return tuple(
        Answers(prompt, first.get(prompt), second.get(prompt), _only(originals.get(prompt, set())))
        for prompt in {**first, **second}
    )


def _only(values: set[str]) -> str | None:
    return next(iter(values)) if len(values) == 1 else None


def _clients(number: int) -> str:
    return f"{number} {'client' if number == 1 else 'clients'}"
