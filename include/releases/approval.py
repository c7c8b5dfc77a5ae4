"""The records of approval: each question whether a release may go live, and its answer."""

from __future__ import annotations

from datetime import UTC, datetime

from pydantic import Field

from include.frozen import Frozen


class Answer(Frozen):
    """The answer of one user. ``by`` and ``name`` are empty if nobody answered in time, which is a no.

    ``order`` counts the answers about one release. Those of earlier versions have 0; their times order them.
    """

    approved: bool
    by: str = Field(default="", description="The user's id.")
    name: str = Field(default="", description="The user's name.")
    at: datetime
    comment: str = ""
    order: int = Field(default=0, ge=0)

    def __str__(self) -> str:
        who = f"by {self.name or self.by}" if self.by else "because nobody answered in time"
        return f"{'approved' if self.approved else 'rejected'} {who} at {self.at:%Y-%m-%d %H:%M}"

    @property
    def line(self) -> str:
        """The answer with its comment."""
        return f"{self}: {self.comment}" if self.comment else str(self)


class Approval(Frozen):
    """One question and its answer, which is None until a user answers.

    An approval allows one promotion, of what was asked about: a repository with this ``content``, of a release that had
    been live ``promotions`` times. ``order`` counts the questions about all releases, as `Answer.order` the answers.
    """

    question: str = Field(description="Airflow's id of the task instance that asks.")
    dag: str
    run: str
    content: str
    promotions: int
    approvers: tuple[str, ...] = Field(default=(), description="Ids of the users who were asked; empty: everyone.")
    asked_at: datetime = Field(default_factory=lambda: datetime.now(UTC))
    answer: Answer | None = None
    order: int = Field(default=0, ge=0)

    def __str__(self) -> str:
        if self.answer:
            return self.answer.line
        return f"{', '.join(self.approvers) or 'everyone'}, asked at {self.asked_at:%Y-%m-%d %H:%M}, has not answered"
