"""The operators for tasks about one release; their pages link to its report."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, cast

from airflow.providers.standard.operators.hitl import ApprovalOperator
from airflow.sdk import Param
from airflow.sdk.exceptions import AirflowSkipException

from hf2triton.links import ReportLink, report_url
from hf2triton.operators.failures import message_first
from hf2triton.operators.task import TaskOperator, call_task
from include.errors import GateFailure, UserError
from include.tasks.approve_release import Question

if TYPE_CHECKING:
    from airflow.sdk import Context

_COMMENT = "comment"


class ReleaseOperator(TaskOperator):
    """A `TaskOperator` with a link to the release's report."""

    operator_extra_links = (ReportLink(),)


class ReleaseApprovalOperator(ApprovalOperator):
    """An operator that asks a person. ``question`` returns the question, or the reason to ask nobody: then it skips.

    ``answer`` is called with the answer, which may have a comment, and says what became of the release. Waiting takes
    up no worker. A missing answer in time is a rejection. After a rejection the task fails, so that its run does not
    look like one that released something; teardowns still run. Question and answer are known by the id of the task
    instance, which is the same when the task resumes, and a new one after the task was cleared.
    """

    template_fields = ("inputs",)
    operator_extra_links = (ReportLink(),)

    def __init__(
        self,
        *,
        question: Callable[..., Any],
        answer: Callable[..., str],
        inputs: Mapping[str, Any] | None = None,
        **kwargs: Any,  # noqa: ANN401
    ) -> None:
        # The params in kwargs are the DAG's; a question has those of its task alone.
        kwargs["params"] = {_COMMENT: Param("", source="task", type=["string", "null"], maxLength=1000, title="Why")}
        super().__init__(subject="", defaults=self.REJECT, **kwargs)
        self.question = question
        self.answer = answer
        self.inputs = dict(inputs or {})

    @message_first
    def execute(self, context: Context) -> None:
        """Asks the question, and waits for the answer."""
        asked = {**self.inputs, "question_id": str(context["ti"].id)}
        question = call_task(self.question, asked, _of_the_run(context), self.log.info)
        if not isinstance(question, Question):
            raise AirflowSkipException(f"nobody is asked: {question}")
        self.subject = question.subject
        self.body = f"{question.body}\n[Release report]({report_url(self.dag_id, context['run_id'])})\n"
        self.assigned_users = [{"id": user, "name": user} for user in question.approvers]
        self.response_timeout = question.timeout
        who = ", ".join(question.approvers) or "everyone who may act on the run"
        hours = question.timeout.total_seconds() / 3600
        self.log.info(question.subject)
        self.log.info("asked: %s; no answer in %g h is a no", who, hours)
        super().execute(context)

    @message_first
    def execute_complete(self, context: Context, event: dict[str, Any]) -> Any:  # noqa: ANN401
        """Handles the answer, which Airflow's API server gives with the user who was logged in."""
        if "error" not in event:
            given = _answer(event)
            answered = {"question_id": str(context["ti"].id), "given": given}
            told = call_task(self.answer, answered, context, self.log.info)
            if not given["approved"]:
                fix = "trigger a new run, with other settings or another model; clearing this task cannot undo a no"
                raise GateFailure(told, fix=fix)
        return super().execute_complete(context, event)


def _answer(event: dict[str, Any]) -> dict[str, Any]:
    if not event["chosen_options"]:
        fix = "clear this task with its downstream tasks: it asks again"
        raise UserError("the answer chooses nothing", where="chosen_options", fix=fix)
    user = event["responded_by_user"] or {}
    return {
        "approved": event["chosen_options"] == [ApprovalOperator.APPROVE],
        "by": str(user.get("id", "")),
        "name": str(user.get("name", "")),
        "at": event["responded_at"],
        "comment": str((event["params_input"] or {}).get(_COMMENT) or ""),
    }


def _of_the_run(context: Context) -> Context:
    """The context with the run's params alone, as Airflow adds those of the task."""
    params = {name: value for name, value in context["params"].items() if name != _COMMENT}
    return cast("Context", {**context, "params": params})
