"""The operators for tasks about one release; their pages link to its report."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from airflow.providers.standard.operators.hitl import ApprovalOperator
from airflow.sdk.exceptions import AirflowSkipException

from hf2triton.links import ReportLink, report_url
from hf2triton.operators.task import TaskOperator, call_task

if TYPE_CHECKING:
    from airflow.sdk import Context


class ReleaseOperator(TaskOperator):
    """A `TaskOperator` with a link to the release's report."""

    operator_extra_links = (ReportLink(),)


class ReleaseApprovalOperator(ApprovalOperator):
    """An operator that asks a person. ``question`` returns the question, or None: then the task skips itself.

    ``reject`` is called after a rejection. Waiting occupies no worker. A missing answer in time is a rejection. After a
    rejection the downstream tasks are skipped, teardowns are not.
    """

    template_fields = ("inputs",)
    operator_extra_links = (ReportLink(),)

    def __init__(
        self,
        *,
        question: Callable[..., Any],
        reject: Callable[..., None],
        inputs: Mapping[str, Any],
        **kwargs: Any,  # noqa: ANN401
    ) -> None:
        super().__init__(subject="", defaults=self.REJECT, **kwargs)
        self.question = question
        self.reject = reject
        self.inputs = dict(inputs)

    def execute(self, context: Context) -> None:
        """Asks the question, and waits for the answer."""
        question = call_task(self.question, self.inputs, context, self.log.info)
        if question is None:
            raise AirflowSkipException("nothing to approve: the gates decide, or the release is live already")
        self.subject = question.subject
        self.body = f"{question.body}\n[Release report]({report_url(self.dag_id, context['run_id'])})\n"
        self.assigned_users = [{"id": user, "name": user} for user in question.approvers]
        self.response_timeout = question.timeout
        who = ", ".join(question.approvers) or "everyone who may act on the run"
        hours = question.timeout.total_seconds() / 3600
        self.log.info(question.subject)
        self.log.info("asked: %s; no answer in %g h is a no", who, hours)
        super().execute(context)

    def execute_complete(self, context: Context, event: dict[str, Any]) -> Any:  # noqa: ANN401
        """Handles the answer."""
        if self.REJECT in event.get("chosen_options", ()):
            call_task(self.reject, {"release": self.inputs["release"]}, context, self.log.info)
        return super().execute_complete(context, event)
