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
from include.artifacts.store import MANIFEST_FILE, ArtifactStore
from include.errors import UserError
from include.files import locked, sync, write_atomic
from include.frozen import Frozen
from include.releases.approval import Answer, Approval
from include.requests.release import swap_of
from include.triton.servers import ServerPlan

Verdict = Literal["candidate", "accepted", "rejected"]
State = Literal["candidate", "rejected", "live", "retired"]
RELEASE_FILE = "release.json"
LIVE_LINK = "live"
CURRENT_LINK = "current"
_RESERVED = (LIVE_LINK, "index.json")  # earlier versions kept an index there


class Promotion(Frozen):
    """One time that a release went live. ``downtime_s``: seconds without a server at the address before that."""

    at: datetime
    downtime_s: float = 0


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
    promotion. ``promoted_by`` is the DAG run that made the release live last.
    """

    schema_version: int = 2
    verdict: Verdict = "candidate"
    target: str
    repository: str
    chain: dict[str, str] = Field(description="Names of the artifacts it was made from, by kind.")
    request: dict[str, Any]
    promotions: tuple[Promotion, ...] = ()
    approvals: tuple[Approval, ...] = ()
    answer: str | None = None
    server: ServerPlan | None = None
    promoted_by: str | None = None
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

    def content(self, release: Release) -> str | None:
        """The digest of the files of the release's repository; None if that was pruned."""
        repository = ArtifactStore(self.root.parent).find(Kind.REPOSITORY, release.repository)
        return repository.content if repository else None

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

    def record_question(self, release: Release, asked: Approval) -> Release:
        """Records a question. It replaces one of the same run that nobody has answered."""
        with self._lock():
            known = _read(self.path(release) / RELEASE_FILE)
            others = (a for a in known.approvals if a.answer or (a.dag, a.run) != (asked.dag, asked.run))
            return self._write(known.model_copy(update={"approvals": (*others, asked)}))

    def record_answer(self, question: str, answer: Answer) -> Release:
        """Records the answer to a question, by the question's id. A no rejects a release that has never been live."""
        with self._lock():
            known, asked = self.asked(question)
            answered = asked.model_copy(update={"answer": answer})
            changes: dict[str, Any] = {"approvals": tuple(answered if a is asked else a for a in known.approvals)}
            if not answer.approved and not known.promotions:
                changes["verdict"] = "rejected"
            return self._write(known.model_copy(update=changes))

    def asked(self, question: str) -> tuple[Release, Approval]:
        """A question by its id, and the release that it is about; raises `UserError` if it was not recorded."""
        for release in self.every():
            for one in release.approvals:
                if one.question == question:
                    return release, one
        raise UserError(
            "no release has a record of this question, so its answer decides nothing",
            where=str(self.root),
            fix="clear task approve_release with its downstream tasks: it asks again",
        )

    def asked_by(self, dag: str, run: str) -> Release | None:
        """The release that a DAG run has asked about last."""
        asked = [(a.asked_at, r) for r in self.every() for a in r.approvals if (a.dag, a.run) == (dag, run)]
        return max(asked, key=lambda pair: pair[0], default=(None, None))[1]

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
            with self._lock():
                known = _read(self.path(live) / RELEASE_FILE)
                promotions = (*known.promotions, Promotion(at=at, downtime_s=downtime))
                live = self._write(known.model_copy(update={"verdict": "accepted", "promotions": promotions}))
        current = self.root / live.model / CURRENT_LINK
        if not current.is_symlink() or str(current.readlink()) != str(live.number):
            _link(current, str(live.number))
        return live

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
