"""Task ``rollback_release``: an earlier release goes live again, from its own artifacts; nothing is built."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from include.context import Context
from include.errors import UserError
from include.releases.records import Release
from include.releases.rule import Rule
from include.requests.operations import RollbackRequest
from include.requests.release import ReleaseRequest
from include.tasks import LiveRelease, contracts
from include.tasks.approve_release import Question, ask, rule_of
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


def question(context: Context, question_id: str, params: Mapping[str, Any]) -> Question | None:
    """The question of task ``approve_release`` about the release to go back to; None if there is nothing to ask."""
    rule = rule_of(context)
    if not rule.required:
        return None
    chosen, live = _choose(context, RollbackRequest.parse(dict(params))), context.releases.live()
    chosen = contracts.record(context, chosen)
    where = f"It is a rollback. Live now: {f'release {live.name}' if live else 'nothing'}.\n"
    return ask(context, question_id, chosen, rule, where, hours=ReleaseRequest().approval_timeout_h)


def _choose(context: Context, request: RollbackRequest) -> Release:
    releases = context.releases
    model = releases.name_of(request.model) if request.model else _live_model(context)
    if request.to != "previous":
        return releases.get(model, int(request.to))
    if previous := releases.previous(model):
        return previous
    raise UserError(
        f"{model} has no release that was live before the present one",
        where="field to",
        fix=f"give a number: it has {', '.join(str(r.number) for r in releases.all(model)) or 'none'}; "
        f"models with releases: {', '.join(releases.models()) or 'none'}",
    )


def _live_model(context: Context) -> str:
    if live := context.releases.live():
        return live.model
    raise UserError("nothing is live", where="field model", fix="name the model whose release is to go live")
