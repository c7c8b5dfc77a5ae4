"""Task ``rollback_release``: an earlier release goes live again, from its own artifacts; nothing is built."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from include.context import Context
from include.errors import UserError
from include.releases.records import Release, ReleaseStore
from include.releases.rule import Rule
from include.requests.operations import RollbackRequest
from include.requests.release import ReleaseRequest
from include.tasks import LiveRelease, contracts
from include.tasks.approve_release import NOT_REQUIRED, Question, ask, rule_of
from include.tasks.promote_release import go_live


def run(context: Context, params: Mapping[str, Any]) -> LiveRelease:
    """Launches the release's server, asks it, and moves the live address to it.

    Raises:
        UserError: there is no such release, it was rejected or not approved, or its artifacts were pruned.
        GateFailure: it does not answer as it did when it was promoted.
        PipelineError: its server does not start. After any failure the release that was live answers again.
    """
    request = RollbackRequest.parse(dict(params))
    chosen = context.releases.asked_by(context.dag_id, context.run_id) or _choose(context, request)
    context.log(f"rolling back to release {chosen.name}")
    chosen = contracts.record(context, chosen)
    return go_live(context, chosen, request.swap, Rule.of(context.settings))


def question(context: Context, question_id: str, params: Mapping[str, Any]) -> Question | str:
    """The question of task ``approve_release`` about the release to go back to, or the reason for asking nobody."""
    rule, request = rule_of(context), RollbackRequest.parse(dict(params))
    if not rule.required and not _is_undecided(context, request):
        return NOT_REQUIRED
    chosen = contracts.record(context, _choose(context, request))
    live = context.releases.live(chosen.served_name)
    where = f"It is a rollback. Live now: {f'release {live.name}' if live else 'nothing'}.\n"
    return ask(context, question_id, chosen, rule, where, hours=ReleaseRequest().approval_timeout_h)


def _is_undecided(context: Context, request: RollbackRequest) -> bool:
    try:
        return _choose(context, request).verdict == "undecided"
    except UserError:  # the task that rolls back says it
        return False


def _choose(context: Context, request: RollbackRequest) -> Release:
    releases = context.releases
    if request.model and not request.name:
        model = releases.name_of(request.model)
        if request.to != "previous":
            return releases.get(model, int(request.to))
        current = releases.current(model)
        name, about, known = current.served_name if current else "", model, releases.all(model)
    else:
        name = about = request.name or _only_name(releases)
        known = releases.of_name(name)
        if request.to != "previous":
            return _numbered(releases, name, int(request.to))
    if name and (previous := releases.previous(name)):
        return previous
    raise UserError(
        f"{about} has no release that was live before the present one",
        where="field to",
        fix=f"give a number: it has {', '.join(str(r.number) for r in known) or 'none'}; {_known(releases)}",
    )


def _numbered(releases: ReleaseStore, name: str, number: int) -> Release:
    """A release of a name's history; of two models that have had the name, the one that had it last counts."""
    live, history = releases.live(name), releases.of_name(name)
    last = live or releases.previous(name)
    found = [release for release in history if release.number == number]
    found.sort(key=lambda release: last is not None and release.model == last.model)
    if found:
        return found[-1]
    numbers = ", ".join(str(release.number) for release in history) or "none"
    raise UserError(
        f"there is no release {number} of {name}; it has: {numbers}", where="field to", fix=_known(releases)
    )


def _only_name(releases: ReleaseStore) -> str:
    names = releases.live_names()
    if len(names) == 1:
        return names[0]
    what = f"several models are live: {', '.join(names)}" if names else "nothing is live"
    raise UserError(what, where="field name", fix="name the model whose release is to go live")


def _known(releases: ReleaseStore) -> str:
    models, names = (", ".join(known) or "none" for known in (releases.models(), releases.names()))
    return f"models with releases: {models}; names: {names}"
