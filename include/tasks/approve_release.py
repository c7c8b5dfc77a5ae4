"""Task ``approve_release``: a person decides, if the request asks for it. The question, and the rejection."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from include import report
from include.context import Context
from include.frozen import Frozen
from include.releases.records import ReleaseId
from include.requests.release import ReleaseRequest
from include.triton.servers import ServerRecord


class Question(Frozen):
    """The question to people: subject, Markdown body, people who may answer (all if empty), and the time for it."""

    subject: str
    body: str
    approvers: tuple[str, ...]
    timeout: timedelta


def question(
    context: Context, release: ReleaseId, candidate: ServerRecord | None, params: Mapping[str, Any]
) -> Question | None:
    """The question, or None if there is none: the request does not ask for approval, or the release is live."""
    request = ReleaseRequest.parse(dict(params))
    chosen = context.releases.get(release.model, release.number)
    if not request.require_approval or context.releases.state(chosen) == "live":
        return None
    found = report.read(context.releases.path(chosen))
    scores = found.to_markdown() if found else "Its report cannot be read.\n"
    where = f"\nUntil the decision the candidate answers at `{candidate.url}`.\n" if candidate else ""
    return Question(
        subject=f"Release {chosen.number} of {chosen.model}: make it live?",
        body=f"{scores}{where}",
        approvers=tuple(request.approvers),
        timeout=timedelta(hours=request.approval_timeout_h),
    )


def reject(context: Context, release: ReleaseId) -> None:
    """Marks the release rejected. The live release is not touched; one that has been live before stays accepted."""
    chosen = context.releases.judge(context.releases.get(release.model, release.number), "rejected")
    context.log(f"release {chosen.name} is {context.releases.state(chosen)}")
