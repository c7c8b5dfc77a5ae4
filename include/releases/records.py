"""Releases: a proven model repository with a number, a report and a history, as files.

``releases/<model>/<n>/`` holds ``release.json`` and the report. Two kinds of links point at the served releases:

- ``releases/live -> <model>/<n>``: the deployment's live release. Moving it, one rename, commits a promotion.
- ``releases/<model>/current -> <n>``: the model's last promoted release; it follows the live link.

A release's state is never stored: it follows from the live link, the verdict and the promotions, so that no crash
leaves two releases live, or none.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from include.artifacts.kind import Kind
from include.artifacts.store import MANIFEST_FILE
from include.errors import UserError
from include.files import locked, sync, write_atomic
from include.frozen import Frozen
from include.requests.release import swap_of
from include.triton.servers import ServerPlan

Verdict = Literal["candidate", "accepted", "rejected"]
State = Literal["candidate", "rejected", "live", "retired"]
RELEASE_FILE = "release.json"
LIVE_LINK = "live"
CURRENT_LINK = "current"
_MOST_OUTAGES = 50
_LONGEST_CAUSE = 4000
_RESERVED = (LIVE_LINK, "index.json")  # earlier versions kept an index there


class Promotion(Frozen):
    """One time that a release went live. ``downtime_s``: seconds without a server at the address before that."""

    at: datetime
    downtime_s: float = 0


class Outage(Frozen):
    """A time in which the live release did not answer, though nobody had stopped it. ``until`` is None while it lasts.

    ``ended_by`` names the run that brought the release back. ``announced`` is true once Airflow has an event for it;
    its end is announced again.
    """

    since: datetime
    until: datetime | None = None
    cause: str
    ended_by: str = ""
    announced: bool = False

    def end(self, by: str) -> Self:
        """The outage, ended now."""
        return self.model_copy(update={"until": datetime.now(UTC), "ended_by": by, "announced": False})


class ReleaseId(Frozen):
    """A release by its model and number. As text it is ``<model>/<n>``, the release's path below all releases."""

    model: str
    number: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """The id that a text such as ``org--name/3`` names."""
        model, _, number = text.rpartition("/")
        return cls(model=model, number=int(number))

    def __str__(self) -> str:
        return f"{self.model}/{self.number}"


class Release(ReleaseId):
    """One release. ``repository`` is the key of the artifact that it serves.

    ``server`` is the plan of its server. ``answer`` is the server's greedy answer to the seed's prompt at the first
    promotion. ``promoted_by`` is the DAG run that made the release live last. ``outages`` are its last ones.
    """

    schema_version: int = 2
    verdict: Verdict = "candidate"
    target: str
    repository: str
    chain: dict[str, str] = Field(description="Names of the artifacts it was made from, by kind.")
    request: dict[str, Any]
    promotions: tuple[Promotion, ...] = ()
    answer: str | None = None
    server: ServerPlan | None = None
    promoted_by: str | None = None
    outages: tuple[Outage, ...] = ()
    created_at: datetime = Field(default_factory=lambda: datetime.now(UTC))

    @model_validator(mode="before")
    @classmethod
    def _from_earlier_versions(cls, fields: dict[str, Any]) -> dict[str, Any]:
        """Version 1 stored a state, and no promotions; the swaps had other names."""
        state, request = fields.get("state"), fields.get("request", {})
        if "swap" in request:
            fields = {**fields, "request": {**request, "swap": swap_of(request["swap"])}}
        if state is None:
            return fields
        promoted = state in ("live", "retired")
        return {
            **{name: value for name, value in fields.items() if name != "state"},
            "schema_version": 2,
            "verdict": "accepted" if promoted else state,
            "promotions": [{"at": fields["changed_at"]}] if promoted else [],
        }

    @property
    def outage(self) -> Outage | None:
        """The outage that lasts."""
        return self.outages[-1] if self.outages and self.outages[-1].until is None else None

    @property
    def id(self) -> ReleaseId:
        """The release without all else that is known of it."""
        return ReleaseId(model=self.model, number=self.number)

    @property
    def name(self) -> str:
        """The id as text."""
        return str(self)


class ReleaseStore:
    """All releases below one root, a directory for each model, beside the store's ``repositories``."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def path(self, release: ReleaseId) -> Path:
        """The directory of a release."""
        return self.root / str(release)

    def models(self) -> list[str]:
        """Every model that has a release."""
        models = {path.parents[1] for path in self.root.glob(f"*/[0-9]*/{RELEASE_FILE}")}
        return sorted(model.name for model in models if not model.is_symlink())

    def all(self, model: str) -> list[Release]:
        """A model's releases, oldest first."""
        found = (self.root / model).glob(f"[0-9]*/{RELEASE_FILE}")
        return sorted((_read(path) for path in found), key=lambda r: r.number)

    def every(self) -> list[Release]:
        """The releases of all models, oldest first within a model."""
        return [release for model in self.models() for release in self.all(model)]

    def get(self, model: str, number: int) -> Release:
        """One release; raises `UserError` if there is none of that number."""
        try:
            return _read(self.root / model / str(number) / RELEASE_FILE)
        except FileNotFoundError as error:
            known = ", ".join(str(r.number) for r in self.all(model)) or "none"
            raise UserError(
                f"there is no release {number} of {model}; it has: {known}",
                where=str(self.root / model),
                fix=f"choose one of its numbers; models with releases: {', '.join(self.models()) or 'none'}",
            ) from error

    def live(self) -> Release | None:
        """The deployment's live release."""
        return self._linked(self.root / LIVE_LINK)

    def live_since(self) -> datetime | None:
        """The time at which the live link was last moved."""
        try:
            return datetime.fromtimestamp((self.root / LIVE_LINK).lstat().st_mtime, UTC)
        except FileNotFoundError:
            return None

    def current(self, model: str) -> Release | None:
        """The model's last promoted release."""
        return self._linked(self.root / model / CURRENT_LINK)

    def previous(self, model: str) -> Release | None:
        """The model's release that was promoted last among those that are not live."""
        live = self._live_id()
        promoted = [r for r in self.all(model) if r.promotions and r.id != live]
        return max(promoted, key=lambda r: r.promotions[-1].at, default=None)

    def state(self, release: Release) -> State:
        """The state of a release: by the live link, then the verdict, then the promotions."""
        if release.id == self._live_id():
            return "live"
        if release.verdict == "rejected":
            return "rejected"
        return "retired" if release.promotions else "candidate"

    def is_pruned(self, release: Release) -> bool:
        """True if the repository of the release is gone. Running its request again brings it back."""
        return not (self.root.parent / Kind.REPOSITORY / release.repository / MANIFEST_FILE).exists()

    def open(
        self, model: str, *, target: str, repository: str, chain: Mapping[str, str], request: Mapping[str, Any]
    ) -> Release:
        """The release of that repository: the one that is there (unless it was rejected), or a new candidate."""
        if model in _RESERVED:
            raise UserError(f"a model cannot be called {model!r}: that name has a meaning in {self.root}")
        known = [r for r in self.all(model) if r.repository == repository and r.verdict != "rejected"]
        if known:
            return known[-1]
        number = 1 + max((r.number for r in self.all(model)), default=0)
        release = Release(
            model=model, number=number, target=target, repository=repository, chain=dict(chain), request=dict(request)
        )
        return self._create(release)

    def judge(self, release: Release, verdict: Verdict) -> Release:
        """Records a verdict. A release that has been live stays accepted, even if a later trial fails."""
        with self._lock():
            known = _read(self.path(release) / RELEASE_FILE)
            return known if known.promotions else self._write(known.model_copy(update={"verdict": verdict}))

    def record_proof(self, release: Release, *, answer: str, server: ServerPlan, by: str) -> Release:
        """Records the server, the answer and the run of a promotion. The first answer of a release stays."""
        with self._lock():
            known = _read(self.path(release) / RELEASE_FILE)
            changes: dict[str, Any] = {"server": server, "answer": answer if known.answer is None else known.answer}
            if self._live_id() != release.id:
                changes["promoted_by"] = by
            return self._write(known.model_copy(update=changes))

    def make_live(self, release: Release) -> None:
        """Moves the live link to this release, which commits a promotion. `record_promotion` does the rest."""
        if self._live_id() != release.id:
            _link(self.root / LIVE_LINK, release.name)

    def record_promotion(self, *, suspended_since: datetime | None = None) -> Release | None:
        """Brings records in line with the live link, as often as it is called; returns the live release.

        A promotion is dated by the link itself, so that one that was cut off after its commit point is recorded the
        same later. ``suspended_since``: from when on the address had no server before that.
        """
        live = self.live()
        if live is None:
            return None
        at = self.live_since()
        if at and at not in (promotion.at for promotion in live.promotions[-1:]):
            downtime = max((at - suspended_since).total_seconds(), 0) if suspended_since else 0
            for other in self.every():
                if other.id != live.id:
                    self.end_outage(other, f"the promotion of release {live.name}")
            with self._lock():
                known = _read(self.path(live) / RELEASE_FILE)
                promotions = (*known.promotions, Promotion(at=at, downtime_s=downtime))
                live = self._write(known.model_copy(update={"verdict": "accepted", "promotions": promotions}))
        current = self.root / live.model / CURRENT_LINK
        if not current.is_symlink() or str(current.readlink()) != str(live.number):
            _link(current, str(live.number))
        return live

    def begin_outage(self, release: Release, cause: str) -> None:
        """Records that an outage begins, unless one lasts already."""
        with self._lock():
            known = _read(self.path(release) / RELEASE_FILE)
            if known.outage is None:
                outage = Outage(since=datetime.now(UTC), cause=cause[:_LONGEST_CAUSE])
                self._write(known.model_copy(update={"outages": (*known.outages, outage)[-_MOST_OUTAGES:]}))

    def end_outage(self, release: Release, by: str) -> None:
        """Records the end of the outage that lasts, if there is one."""
        if release.outage is None:
            return
        with self._lock():
            known = _read(self.path(release) / RELEASE_FILE)
            if outage := known.outage:
                self._write(known.model_copy(update={"outages": (*known.outages[:-1], outage.end(by))}))

    def announce_outages(self) -> list[tuple[Release, Outage]]:
        """The outages that Airflow has no event for yet, with their releases; they count as announced from now on."""
        news = []
        for release in self.every():
            if all(outage.announced for outage in release.outages):
                continue
            with self._lock():
                known = _read(self.path(release) / RELEASE_FILE)
                told = tuple(outage.model_copy(update={"announced": True}) for outage in known.outages)
                self._write(known.model_copy(update={"outages": told}))
            news += [(known, outage) for outage in known.outages if not outage.announced]
        return news

    def _linked(self, link: Path) -> Release | None:
        try:
            return _read(link / RELEASE_FILE)
        except FileNotFoundError:
            return None

    def _live_id(self) -> ReleaseId | None:
        try:
            return ReleaseId.parse(str((self.root / LIVE_LINK).readlink()))
        except FileNotFoundError:
            return None

    def _write(self, release: Release) -> Release:
        write_atomic(self.path(release) / RELEASE_FILE, release.model_dump_json(indent=1))
        return release

    def _lock(self) -> AbstractContextManager[None]:
        """Held while a record is read, changed and written: a trial and a promotion may want the same one."""
        return locked(self.root / ".lock")

    def _create(self, release: Release) -> Release:
        draft = self.root / release.model / f".draft.{secrets.token_hex(4)}"
        write_atomic(draft / RELEASE_FILE, release.model_dump_json(indent=1))
        while True:
            try:
                draft.rename(self.path(release))
            except OSError:  # another run took the number: a directory that holds files is never replaced
                if not self.path(release).exists():
                    raise
                release = release.model_copy(update={"number": release.number + 1})
                write_atomic(draft / RELEASE_FILE, release.model_dump_json(indent=1))
            else:
                return release


def _read(path: Path) -> Release:
    return Release.model_validate_json(path.read_text())


def _link(link: Path, target: str) -> None:
    """Points a link at ``target`` in one step, so that it exists at every moment."""
    draft = link.with_name(f".{link.name}.{secrets.token_hex(4)}")
    draft.symlink_to(target)
    draft.replace(link)
    sync(link.parent)
