"""The rule of approval: whether a person must approve before a release goes live, and who may."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from include.errors import UserError
from include.releases.approval import Approval
from include.releases.records import Release, ReleaseStore
from include.requests.release import ReleaseRequest
from include.settings import Settings


@dataclass(frozen=True)
class Rule:
    """The rule for one promotion. ``approvers`` are ids of users; empty: everyone who may act on the run."""

    required: bool
    approvers: tuple[str, ...] = ()

    @classmethod
    def of(cls, settings: Settings, request: ReleaseRequest | None = None) -> Self:
        """The deployment's rule. A request may ask for an approval, or for fewer approvers, and never for less.

        Raises:
            UserError: the request names an approver whom the deployment does not name.
        """
        named, asked = settings.approvers, tuple(request.approvers) if request else ()
        if strangers := [user for user in asked if named and user not in named]:
            raise UserError(
                f"{', '.join(strangers)} may not approve releases in this deployment",
                where="field approvers",
                fix=f"name some of {', '.join(named)} (HF2TRITON_APPROVERS), or nobody: then all of these are asked",
            )
        forced = settings.require_approval or bool(named)
        return cls(forced or (request is not None and request.require_approval), asked or named)

    def holds_for(self, release: Release) -> bool:
        """True if a person has to approve the release: by the rule, or because its gates have not decided."""
        return self.required or release.verdict == "undecided"

    def approval(self, releases: ReleaseStore, release: Release) -> Approval | None:
        """The approval that lets the release go live; None if it has to be asked for."""
        decided = _decision(release)
        if decided is None or decided.answer is None or not decided.answer.approved:
            return None
        same = (decided.content, decided.promotions) == (releases.content(release), len(release.promotions))
        return decided if same and (not self.approvers or decided.answer.by in self.approvers) else None

    def check(self, releases: ReleaseStore, release: Release) -> None:
        """Raises `UserError` if the release may not go live. One that is live may stay."""
        if not self.holds_for(release) or releases.state(release) == "live" or self.approval(releases, release):
            return
        last = release.approvals[-1] if release.approvals else None
        known = str(last) if last else "nobody was asked"
        if last and last.answer and last.answer.approved:
            known += ", which does not hold for this promotion, these contents or these approvers"
        raise UserError(
            f"release {release.name} has not been approved: {known}",
            where=str(releases.path(release)),
            fix="clear task approve_release of this run with its downstream tasks, and let "
            f"{', '.join(self.approvers) or 'a user'} answer the question; setting the task's state approves nothing",
        )


def _decision(release: Release) -> Approval | None:
    """The question that was answered last."""
    answered = [((one.answer.order, one.answer.at), one) for one in release.approvals if one.answer]
    return max(answered, key=lambda pair: pair[0], default=(None, None))[1]
