"""Task ``approve_release``: a person decides, if the request or the deployment asks for it. Question and answer.

Both are recorded in the release, by this task alone: the state of a task, and what tasks hand on, can be changed by
everyone who may edit runs, and promotion looks at neither.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from include import report
from include.context import Context
from include.errors import UserError
from include.frozen import Frozen
from include.releases.approval import Answer, Approval
from include.releases.ids import ReleaseId
from include.releases.records import Release, ReleaseStore
from include.releases.rule import Rule
from include.requests.release import ReleaseRequest
from include.tasks import contracts
from include.triton.servers import ServerRecord

NOT_REQUIRED = "neither the request nor the deployment requires an approval"


class Question(Frozen):
    """The question to people: subject, Markdown body, people who may answer (all if empty), and the time for it."""

    subject: str
    body: str
    approvers: tuple[str, ...]
    timeout: timedelta


def question(
    context: Context, question_id: str, release: ReleaseId, candidate: ServerRecord | None, params: Mapping[str, Any]
) -> Question | str:
    """The question about a run's candidate, or the reason for asking nobody.

    Raises:
        UserError: the release would break clients, and the deployment refuses that.
    """
    request = ReleaseRequest.parse(dict(params))
    chosen = contracts.record(context, context.releases.get(release.model, release.number))
    contracts.check(context, chosen)
    rule = rule_of(context, request)
    where = f"Until the decision the candidate answers at `{candidate.url}`.\n" if candidate else ""
    return ask(context, question_id, chosen, rule, where, hours=request.approval_timeout_h)


def ask(
    context: Context, question_id: str, release: Release, rule: Rule, where: str, *, hours: float
) -> Question | str:
    """Records the question, and returns it; or the reason for asking nobody.

    Raises:
        UserError: the release was rejected or pruned: nobody needs to be asked.
    """
    releases = context.releases
    if not rule.holds_for(release):
        return NOT_REQUIRED
    if releases.state(release) == "live":
        return f"release {release.name} is live already"
    if approval := rule.approval(releases, release):
        return f"release {release.name} is {approval}"
    content = releases.content(release)
    if release.verdict == "rejected" or content is None:
        last = release.approvals[-1] if release.approvals else "see its report"
        raise UserError(
            f"release {release.name} was {'pruned' if content is None else f'rejected ({last})'}: it cannot go live",
            where=str(releases.path(release)),
            fix="run release_awq_engine again with its request, or choose another release",
        )
    asked = Approval(
        question=question_id,
        dag=context.dag_id,
        run=context.run_id,
        content=content,
        promotions=len(release.promotions),
        approvers=rule.approvers,
    )
    releases.record_question(release, asked)
    found = report.read(releases.path(release))
    scores = found.to_markdown() if found else "Its report cannot be read.\n"
    changes = release.contract.to_markdown() if release.contract else ""
    return Question(
        subject=f"Release {release.number} of {release.model}: make it live as {release.served_name}?",
        body=f"{scores}\n{changes}\n{_names(releases, release)}{where}",
        approvers=rule.approvers,
        timeout=timedelta(hours=hours),
    )


def _names(releases: ReleaseStore, release: Release) -> str:
    """The line about a release of another model that this one would replace."""
    other = releases.replaced_model(release)
    return f"It replaces **{other.source}**, release {other.name}, which has this name now.\n\n" if other else ""


def answer(context: Context, question_id: str, given: Answer) -> str:
    """Records the answer in the release and its report, and says what the release is now.

    After a no it is rejected, unless it has been live.

    Raises:
        UserError: the user may not approve this release; nothing is recorded.
    """
    _, asked = context.releases.asked(question_id)
    if given.approved:
        _check_may_approve(context, asked, given)
    decided = context.releases.record_answer(question_id, given)
    report.record_history(context.releases.path(decided), decided)
    told = f"release {decided.name} is {given.line}"
    context.log(told)
    return told


def rule_of(context: Context, request: ReleaseRequest | None = None) -> Rule:
    """The rule for this run, once its approvers are known to exist.

    Raises:
        UserError: an approver does not exist or may not approve, or nobody is left who may.
    """
    rule = Rule.of(context.settings, request)
    users = context.find_users()
    if users is None and rule.approvers:
        context.log("this auth manager does not tell tasks its users: the approvers are not checked")
    elif unknown := [user for user in rule.approvers if users is not None and user not in users]:
        raise UserError(
            f"there is no user {', '.join(unknown)} who may answer questions in this Airflow",
            where="field approvers, or HF2TRITON_APPROVERS",
            fix=f"name users of the role user, op or admin; there are: {', '.join(sorted(users or ())) or 'none'}",
        )
    return _without_requester(context, rule) if rule.required and context.settings.four_eyes else rule


def _without_requester(context: Context, rule: Rule) -> Rule:
    requester = context.find_requester()
    if requester not in rule.approvers:
        return rule
    if others := tuple(user for user in rule.approvers if user != requester):
        return Rule(rule.required, others)
    raise UserError(
        f"{requester} has triggered this run, and is the only approver",
        where="HF2TRITON_FOUR_EYES",
        fix="name another approver, or let another user trigger the run",
    )


def _check_may_approve(context: Context, asked: Approval, answer: Answer) -> None:
    """Airflow lets only the users who were asked answer, but not if all its users are one anonymous admin."""
    requester = context.find_requester()
    if not answer.by or (asked.approvers and answer.by not in asked.approvers):
        what = f"{answer.name or 'nobody'} is not among the approvers: {', '.join(asked.approvers) or 'all users'}"
    elif context.settings.four_eyes and requester in {answer.by, answer.name}:
        what = f"{requester} has triggered this run, and cannot approve it, too (HF2TRITON_FOUR_EYES)"
    else:
        return
    fix = "clear this task with its downstream tasks: it asks again, and another user has to answer"
    raise UserError(what, where=f"run {asked.run}", fix=fix)
