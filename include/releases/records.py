"""Releases: a proven model repository with a number, a report and a history, as files.

``releases/<model>/<n>/`` holds ``release.json`` and the report. Two kinds of links point at the served releases:

- ``live/<name>``: the live release of a served name. Moving it, one rename, commits a promotion; see `live`.
- ``releases/<model>/current -> <n>``: the model's last promoted release; it follows the live links.

A release's state is never stored: it follows from the live links, the verdict and the promotions, so that no crash
leaves two releases of a name live, or none. Promotions, questions and answers are numbered: no clock decides which was
the last.

Which release a record is of follows from its place alone. Lists skip a record that is damaged or says otherwise, and
whatever else lies there: `ReleaseStore.damage` has it.
"""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from include.artifacts.kind import ArtifactName, Kind
from include.artifacts.store import MANIFEST_FILE, ArtifactStore
from include.errors import UserError
from include.files import (
    Damaged,
    Skip,
    Unreadable,
    damaged,
    host_error,
    ignore,
    locked,
    read_record,
    write_atomic,
)
from include.frozen import Frozen, Moment
from include.releases.approval import Answer, Approval
from include.releases.contract import Comparison
from include.releases.ids import MODEL, NUMBER, ReleaseId
from include.releases.live import FORMER_LINK, LiveLinks, link_to
from include.requests.names import default_name, names_of
from include.requests.release import ReleaseRequest, former_slug_of, slug_of, swap_of
from include.stages.formats import title_of
from include.triton.servers import ServerPlan

Verdict = Literal["candidate", "accepted", "rejected", "undecided"]
"""``undecided``: no gate failed, and one leaves it to a person."""
State = Literal["candidate", "rejected", "live", "retired"]
RELEASE_FILE = "release.json"
CURRENT_LINK = "current"
_MOST_OUTAGES = 50
_LONGEST_CAUSE = 4000
_RESERVED = (FORMER_LINK, "index.json")  # earlier versions kept their live link and an index there


class Promotion(Frozen):
    """One time that a release went live. ``downtime_s``: seconds without a server at the address before that.

    ``order`` counts the promotions of all models. Those of earlier versions have 0; their times order them. ``name`` is
    the served name; earlier versions had none.
    """

    at: Moment
    name: str = ""
    downtime_s: float = 0
    order: int = Field(default=0, ge=0)


class Retirement(Frozen):
    """One time that a release was taken off the air, by a DAG run, which a user (if Airflow knows one) triggered."""

    at: Moment
    run: str
    by: str = ""


class Outage(Frozen):
    """A time in which the live release did not answer, though nobody had stopped it. ``until`` is None while it lasts.

    ``ended_by`` names the run that brought the release back. ``announced`` is true once Airflow has an event for it;
    its end is announced again.
    """

    since: Moment
    until: Moment | None = None
    cause: str
    ended_by: str = ""
    announced: bool = False

    def end(self, by: str) -> Self:
        """The outage, ended now."""
        return self.model_copy(update={"until": datetime.now(UTC), "ended_by": by, "announced": False})


class Release(ReleaseId):
    """One release. ``repository`` is the key of the artifact that it serves.

    ``server`` is the plan of its server. ``answer`` is the server's greedy answer to the seed's prompt at the first
    promotion. ``promoted_by`` is the DAG run that made the release live last. ``outages`` are its last ones.
    ``retirements`` are the times that its served name was taken off the air while it was live.
    """

    schema_version: int = 2
    verdict: Verdict = "candidate"
    target: str
    repository: ArtifactName
    chain: dict[str, str] = Field(description="Names of the artifacts it was made from, by kind.")
    request: dict[str, Any]
    promotions: tuple[Promotion, ...] = ()
    retirements: tuple[Retirement, ...] = ()
    approvals: tuple[Approval, ...] = ()
    contract: Comparison | None = Field(default=None, description="Changes for clients of the release before it.")
    answer: str | None = None
    server: ServerPlan | None = None
    promoted_by: str | None = None
    outages: tuple[Outage, ...] = ()
    created_at: Moment = Field(default_factory=lambda: datetime.now(UTC))

    @model_validator(mode="before")
    @classmethod
    def _from_earlier_versions(cls, fields: Any) -> Any:  # noqa: ANN401 - any JSON
        """Version 1 stored a state, and no promotions; the swaps had other names."""
        if not isinstance(fields, dict):
            return fields
        state, request = fields.get("state"), fields.get("request")
        if isinstance(request, dict) and "swap" in request:
            fields = {**fields, "request": {**request, "swap": swap_of(request["swap"])}}
        if state is None:
            return fields
        promoted = state in ("live", "retired")
        return {
            **{name: value for name, value in fields.items() if name != "state"},
            "schema_version": 2,
            "verdict": "accepted" if promoted else state,
            "promotions": [{"at": fields.get("changed_at")}] if promoted else [],
        }

    @property
    def served_name(self) -> str:
        """The name that clients call the release by; by default it follows from the model's id."""
        return names_of(self.request)[0] or default_name(self.source or self.model.replace("--", "/"))

    @property
    def aliases(self) -> tuple[str, ...]:
        """More names for clients."""
        return names_of(self.request)[1]

    @property
    def is_named(self) -> bool:
        """True if the request gave the served name."""
        return bool(names_of(self.request)[0])

    @property
    def source(self) -> str:
        """The model that the release was made from, by its Hub id or path; empty if the record does not say."""
        return str(self.request.get("model") or self.chain.get("model", "").rpartition("@")[0])

    @property
    def identity(self) -> str:
        """That model by its name in paths, so that one path is one model however it is written."""
        return slug_of(self.source) if self.source else self.model

    def asks_the_same(self, request: Mapping[str, Any]) -> bool:
        """True if it was made by this request; fields that earlier versions did not have count as their defaults."""
        return {**ReleaseRequest().model_dump(mode="json"), **self.request} == request

    def replaces(self, live: Release | None) -> bool:
        """True if the release that is live under this one's name is known to be of another model."""
        return bool(live and live.source and live.identity != self.identity)

    @property
    def format(self) -> str:
        """The title of the format of its weights."""
        return title_of(self.request)

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
    """All releases below one root, a directory for each model, beside the store's ``repositories``.

    ``damage`` has what its lists have skipped so far; ``skip`` gets each the first time. ``default`` is the served name
    that the deployment's setting makes the default model's.
    """

    def __init__(self, root: Path, skip: Skip = ignore, default: str | None = None) -> None:
        self.root = root
        self.damage: dict[str, Damaged] = {}
        self._skip = skip
        self._default = default
        self._links = LiveLinks(root, self.note, self._served_name_of, self._last_promoted)

    def note(self, damage: Damaged) -> None:
        """Adds to what was skipped."""
        if damage.where not in self.damage:
            self.damage[damage.where] = damage
            self._skip(damage)

    def path(self, release: ReleaseId) -> Path:
        """The directory of a release."""
        return self.root / str(release)

    def name_of(self, model: str) -> str:
        """The name in paths of the model that a request names.

        Earlier versions called local models by their directories' last names. Such a history stays with the directory
        whose release was live last, or else is the newest; another directory of that last name gets a history anew.
        """
        former = former_slug_of(model)
        history = self.all(former) if former else []
        if former and history and _owner(history).identity == slug_of(model):
            return former
        return slug_of(model)

    def models(self) -> list[str]:
        """Every model that has a release."""
        return [model for model in self._directories() if self.all(model)]

    def all(self, model: str) -> list[Release]:
        """A model's releases, oldest first."""
        found = (self._read_or_note(number) for number in self._numbers(model))
        return sorted((release for release in found if release), key=lambda release: release.number)

    def every(self) -> list[Release]:
        """The releases of all models, oldest first within a model."""
        return [release for model in self._directories() for release in self.all(model)]

    def get(self, model: str, number: int) -> Release:
        """One release; raises `UserError` if there is none of that number, `HostError` if its record is damaged."""
        try:
            return _read(self.root / model / str(number) / RELEASE_FILE)
        except FileNotFoundError as error:
            known = ", ".join(str(r.number) for r in self.all(model)) or "none"
            raise UserError(
                f"there is no release {number} of {model}; it has: {known}",
                where=str(self.root / model),
                fix=f"choose one of its numbers; models with releases: {', '.join(self.models()) or 'none'}",
            ) from error

    def live_ids(self) -> dict[str, ReleaseId]:
        """The ids of the live releases by served name; where a link is damaged, of the one that was promoted last."""
        return self._links.ids()

    def live_names(self) -> list[str]:
        """The served names of the live models, sorted."""
        return list(self.live_ids())

    def lives(self) -> dict[str, Release]:
        """The live releases by served name. One whose record is damaged has what its name alone says."""
        return {
            name: self._read_or_note(self.path(id_)) or _unknown(id_, name) for name, id_ in self.live_ids().items()
        }

    def live(self, name: str | None = None) -> Release | None:
        """The live release of a served name, or of the default model."""
        chosen = name or self.default_name() or ""
        live = self.live_id(chosen)
        return self._live(chosen, live) if live else None

    def live_id(self, name: str) -> ReleaseId | None:
        """The id of the live release of a served name."""
        return self.live_ids().get(name)

    def live_since(self, name: str) -> datetime | None:
        """The time at which the live link of a served name was last moved."""
        return self._links.since(name)

    def default_name(self) -> str | None:
        """The served name of the default model: the setting's if that is live, else the one that was promoted first."""
        names = self.live_names()
        if self._default in names or len(names) < 2:
            return self._default if self._default in names else next(iter(names), None)
        firsts = {name: [(p.order, p.at) for r in self.of_name(name) for p in r.promotions] for name in names}
        return min(names, key=lambda name: (not firsts[name], min(firsts[name], default=None), name))

    def names(self) -> list[str]:
        """Every served name that a release has."""
        return sorted({release.served_name for release in self.every()})

    def of_name(self, name: str) -> list[Release]:
        """The history of a served name: its releases over all models, in the order in which they were made.

        Releases of earlier versions had no names. Of two such models with one default name, only that one counts
        whose release was live last, or else is the newest.
        """
        named = sorted((r for r in self.every() if r.served_name == name), key=lambda r: (r.created_at, r.number))
        by_default = [release for release in named if not release.is_named]
        source = _owner(by_default).identity if by_default else ""
        return [release for release in named if release.is_named or release.identity == source]

    def current(self, model: str) -> Release | None:
        """The model's last promoted release."""
        link = self.root / model / CURRENT_LINK
        try:
            current = ReleaseId.parse(f"{model}/{link.readlink()}")
        except FileNotFoundError:
            return None
        except (OSError, ValueError):
            self.note(damaged(link, "it does not lead to a release of this model", "promote one of its releases"))
            return None
        return self._read_or_note(self.path(current))

    def previous(self, name: str) -> Release | None:
        """The release of a served name that was promoted last among those that are not live."""
        live = self.live_id(name)
        return _promoted_last(release for release in self.of_name(name) if release.id != live)

    def replaced_model(self, release: Release) -> Release | None:
        """The live release of another model that this one would take the served name from."""
        live = self.lives().get(release.served_name)
        return live if release.replaces(live) else None

    def check_names(self, name: str, aliases: Iterable[str], model: str, *, given: bool) -> None:
        """Checks that a release of a model may be served under these names, of which ``name`` was ``given``, or not.

        ``model`` is the model's name in paths, as `slug_of` has it.

        Raises:
            UserError: another live model has one of the names, or a name by default has the history of another model.
        """
        wanted = {name, *aliases}
        for other, release in self.lives().items():
            if other != name and (taken := wanted & {other, *release.aliases}):
                raise UserError(
                    f"{', '.join(sorted(taken))} is a name of the live model {other}, release {release.name}",
                    where="fields served_name and aliases",
                    fix=f"choose other names, or take {other} off the air first: DAG retire_model",
                )
        last = _promoted_last(self.of_name(name))
        if not given and last and last.identity != model:
            raise UserError(
                f"{name}, the served name of {model} by default, is that of release {last.name}, of another model",
                where="field served_name",
                fix=f"give a served_name: another one, or {name} to let this release replace that model",
            )

    def state(self, release: Release) -> State:
        """The state of a release: by the live links, then the verdict, then the promotions."""
        if release.id in self.live_ids().values():
            return "live"
        if release.verdict == "rejected":
            return "rejected"
        return "retired" if release.promotions else "candidate"

    def is_pruned(self, release: Release) -> bool:
        """True if the repository of the release is gone. Running its request again brings it back."""
        manifest = self.root.parent / Kind.REPOSITORY / release.repository / MANIFEST_FILE
        with suppress(OSError):  # one that cannot be looked at is not gone
            return not manifest.exists()
        return False

    def content(self, release: Release) -> str | None:
        """The digest of the files of the release's repository; None if that was pruned."""
        repository = ArtifactStore(self.root.parent).find(Kind.REPOSITORY, release.repository)
        return repository.content if repository else None

    def open(
        self, model: str, *, target: str, repository: str, chain: Mapping[str, str], request: Mapping[str, Any]
    ) -> Release:
        """The release of that repository under the request's names: one that was not rejected, or a new candidate.

        Of several it is the one of this very request, else the last.
        """
        if model in _RESERVED:
            raise UserError(f"a model cannot be called {model!r}: that name has a meaning in {self.root}")
        number = self._next_number(model)
        release = Release(
            model=model, number=number, target=target, repository=repository, chain=dict(chain), request=dict(request)
        )
        known = [r for r in self.all(model) if r.verdict != "rejected" and _serves_as(r) == _serves_as(release)]
        same = [r for r in known if r.asks_the_same(release.request)]
        return (same or known)[-1] if known else self._create(release)

    def create_again(self, release: Release, request: Mapping[str, Any]) -> Release:
        """A new candidate of a release's artifacts, for another request."""
        made_of = release.model_dump(include={"model", "target", "repository", "chain"})
        return self._create(Release(**made_of, number=self._next_number(release.model), request=dict(request)))

    def judge(self, release: Release, verdict: Verdict) -> Release:
        """Records a verdict. A release that has been live is not rejected, even if a later trial fails."""
        with self._lock():
            known = _read(self.path(release) / RELEASE_FILE)
            return (
                known
                if known.promotions and verdict == "rejected"
                else self._write(known.model_copy(update={"verdict": verdict}))
            )

    def record_contract(self, release: Release, found: Comparison | None) -> Release:
        """Records the changes that clients of the live release would notice."""
        with self._lock():
            known = _read(self.path(release) / RELEASE_FILE)
            return self._write(known.model_copy(update={"contract": found}))

    def record_question(self, release: Release, asked: Approval) -> Release:
        """Records a question. It replaces one of the same run that nobody has answered."""
        with self._lock():
            known = _read(self.path(release) / RELEASE_FILE)
            others = (a for a in known.approvals if a.answer or (a.dag, a.run) != (asked.dag, asked.run))
            last = max((one.order for release in self.every() for one in release.approvals), default=0)
            numbered = asked.model_copy(update={"order": last + 1})
            return self._write(known.model_copy(update={"approvals": (*others, numbered)}))

    def record_answer(self, question: str, answer: Answer) -> Release:
        """Records the answer to a question, by the question's id. A no rejects a release that has never been live."""
        with self._lock():
            known, asked = self.asked(question)
            last = max((a.answer.order for a in known.approvals if a.answer), default=0)
            answered = asked.model_copy(update={"answer": answer.model_copy(update={"order": last + 1})})
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
        asked = [(a, r) for r in self.every() for a in r.approvals if (a.dag, a.run) == (dag, run)]
        return max(asked, key=lambda pair: (pair[0].order, pair[0].asked_at), default=(None, None))[1]

    def record_proof(self, release: Release, *, answer: str, server: ServerPlan, by: str) -> Release:
        """Records the server, the answer and the run of a promotion. The first answer of a release stays."""
        with self._lock():
            known = _read(self.path(release) / RELEASE_FILE)
            changes: dict[str, Any] = {"server": server, "answer": answer if known.answer is None else known.answer}
            if self.live_id(release.served_name) != release.id:
                changes["promoted_by"] = by
            return self._write(known.model_copy(update=changes))

    def make_live(self, release: Release) -> None:
        """Moves the live link of the release's name to it, which commits a promotion; then call `record_promotion`."""
        if self.live_id(release.served_name) != release.id:
            self._links.move(release.served_name, release.id)

    def record_promotion(self, name: str, *, suspended_since: datetime | None = None) -> Release | None:
        """Brings records in line with a name's live link, as often as it is called; returns the live release.

        A promotion is dated by the link itself, so that one that was cut off after its commit point is recorded the
        same later. ``suspended_since``: from when on the name had no server before that.
        """
        live = self.lives().get(name)
        if live is None:
            return None
        at = self.live_since(name)
        if at and at not in (promotion.at for promotion in live.promotions[-1:]):
            downtime = max((at - suspended_since).total_seconds(), 0) if suspended_since else 0
            for other in self.of_name(name):
                if self.state(other) != "live":
                    self.end_outage(other, f"the promotion of release {live.name}")
            with self._lock():
                live = self._record(live, Promotion(at=at, name=name, downtime_s=downtime))
        last = _promoted_last(self.all(live.model)) if live.promotions else live
        current = self.root / live.model / CURRENT_LINK
        if last and (not current.is_symlink() or str(current.readlink()) != str(last.number)):
            link_to(current, str(last.number))
        return live

    def _record(self, live: Release, promotion: Promotion) -> Release:
        known = self._read_or_note(self.path(live))
        if known is None:
            return live
        last = max((p.order for release in self.every() for p in release.promotions), default=0)
        promotions = (*known.promotions, promotion.model_copy(update={"order": last + 1}))
        return self._write(known.model_copy(update={"verdict": "accepted", "promotions": promotions}))

    def retire(self, name: str, *, run: str, by: str) -> None:
        """Takes a served name off the air: records by whom, then removes its live link, which commits it."""
        live, since = self.live_id(name), self.live_since(name)
        if live is None:
            return
        with self._lock():
            if known := self._read_or_note(self.path(live)):
                before = tuple(r for r in known.retirements if since is None or r.at < since)  # others were cut off
                retired = (*before, Retirement(at=datetime.now(UTC), run=run, by=by))
                self._write(known.model_copy(update={"retirements": retired}))
        self._links.remove(name)

    def begin_outage(self, release: Release, cause: str) -> None:
        """Records that an outage begins, unless one lasts already."""
        with self._lock():
            known = self._read_or_note(self.path(release))
            if known and known.outage is None:
                outage = Outage(since=datetime.now(UTC), cause=cause[:_LONGEST_CAUSE])
                self._write(known.model_copy(update={"outages": (*known.outages, outage)[-_MOST_OUTAGES:]}))

    def end_outage(self, release: Release, by: str) -> None:
        """Records the end of the outage that lasts, if there is one."""
        if release.outage is None:
            return
        with self._lock():
            known = self._read_or_note(self.path(release))
            if known and (outage := known.outage):
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

    def _live(self, name: str, live: ReleaseId) -> Release:
        return self._read_or_note(self.path(live)) or _unknown(live, name)

    def _served_name_of(self, release: ReleaseId) -> str:
        known = self._read_or_note(self.path(release)) or _unknown(release, "")
        return known.served_name

    def _last_promoted(self) -> dict[str, tuple[ReleaseId, datetime]]:
        """The releases that were live last, by name, unless they were retired; of earlier versions' only the last."""
        every = self.every()
        unnamed = _promoted_last(release for release in every if release.promotions and not release.promotions[-1].name)
        found = {}
        for name in {release.served_name for release in every}:
            last = _promoted_last(self.of_name(name))
            if last is None or any(r.at >= last.promotions[-1].at for r in last.retirements):
                continue
            if last.promotions[-1].name or (unnamed and last.id == unnamed.id):
                found[name] = (last.id, last.promotions[-1].at)
        return found

    def _directories(self) -> list[str]:
        """The names of the models' directories."""
        known = (*_RESERVED, ".lock")
        entries = [path for path in self._entries(self.root) if path.name not in known]
        return [path.name for path in entries if self._is_directory(path, MODEL)]

    def _numbers(self, model: str) -> list[Path]:
        """The directories of a model's releases."""
        entries = [path for path in self._entries(self.root / model) if path.name != CURRENT_LINK]
        return [path for path in entries if self._is_directory(path, NUMBER)]

    def _entries(self, directory: Path) -> list[Path]:
        try:
            return sorted(path for path in directory.iterdir() if not path.name.startswith("."))
        except FileNotFoundError:
            return []
        except OSError as error:
            self.note(Unreadable(f"{directory} cannot be read: {error.strerror}", where=str(directory)))
            return []

    def _is_directory(self, path: Path, pattern: str) -> bool:
        if path.is_dir() and not path.is_symlink() and re.fullmatch(pattern, path.name):
            return True
        self.note(damaged(path, "it is no directory of this store", "move it away"))
        return False

    def _read_or_note(self, directory: Path) -> Release | None:
        try:
            return _read(directory / RELEASE_FILE)
        except FileNotFoundError:
            self.note(damaged(directory, f"it has no {RELEASE_FILE}", "move it away"))
        except Damaged as damage:
            self.note(damage)
        return None

    def _write(self, release: Release) -> Release:
        write_atomic(self.path(release) / RELEASE_FILE, release.model_dump_json(indent=1))
        return release

    def _lock(self) -> AbstractContextManager[None]:
        """Held while a record is read, changed and written: a trial and a promotion may want the same one."""
        return locked(self.root / ".lock")

    def _next_number(self, model: str) -> int:
        return 1 + max((release.number for release in self.all(model)), default=0)

    def _create(self, release: Release) -> Release:
        draft = self.root / release.model / f".draft.{secrets.token_hex(4)}"
        write_atomic(draft / RELEASE_FILE, release.model_dump_json(indent=1))
        while True:
            try:
                draft.rename(self.path(release))
            except OSError as error:  # another run took the number: a directory that holds files is never replaced
                if not os.path.lexists(self.path(release)):
                    raise host_error(error, self.path(release)) from error
                release = release.model_copy(update={"number": release.number + 1})
                write_atomic(draft / RELEASE_FILE, release.model_dump_json(indent=1))
            else:
                return release


def _read(path: Path) -> Release:
    release = read_record(path, Release)
    if (release.model, str(release.number)) != (path.parents[1].name, path.parent.name):
        raise damaged(path, f"it is the record of release {release.name}")
    return release


def _unknown(release: ReleaseId, name: str) -> Release:
    """A release of which only the id and the served name are known."""
    request = {"served_name": name}
    return Release(**dict(release), verdict="accepted", target="", repository="unknown", chain={}, request=request)


def _serves_as(release: Release) -> tuple[object, ...]:
    """All that tells a release from others of its model."""
    return release.repository, release.served_name, release.aliases


def _owner(history: Sequence[Release]) -> Release:
    return _promoted_last(history) or history[-1]


def _promoted_last(releases: Iterable[Release]) -> Release | None:
    promoted = (release for release in releases if release.promotions)
    return max(promoted, key=lambda r: (r.promotions[-1].order, r.promotions[-1].at), default=None)
