"""The operators of DAG `rebuild_on_change`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from airflow.providers.standard.operators.trigger_dagrun import TriggerDagRunOperator
from airflow.sdk.exceptions import AirflowSkipException

from hf2triton.context import RELEASE_DAG
from hf2triton.operators.failures import message_first
from hf2triton.operators.task import TaskOperator, call_task

if TYPE_CHECKING:
    from airflow.sdk import Context

_NOTE_CHARACTERS = 1000  # as many as Airflow keeps
_SHORTEST = timedelta(minutes=1)


class CatalogueOperator(TaskOperator):
    """The operator that gives its task the time window of the run: from the previous run to this one.

    So no entry is forgotten if the scheduler was down. A manual run has no window.
    """

    def execute(self, context: Context) -> Any:  # noqa: ANN401
        """Returns the entries that are due."""
        self.inputs = {"window": _window(context)}
        return super().execute(context)


class RebuildOperator(TriggerDagRunOperator):
    """The operator that starts the release run that ``call`` returns; skips itself if that is None."""

    template_fields = ("due",)

    def __init__(self, *, call: Callable[..., Any], due: Mapping[str, Any], **kwargs: Any) -> None:  # noqa: ANN401
        # A paused DAG would collect runs unnoticed; no logical date, because several runs may start at the same moment.
        super().__init__(trigger_dag_id=RELEASE_DAG, fail_when_dag_is_paused=True, logical_date=None, **kwargs)
        self.call = call
        self.due = due

    @message_first
    def execute(self, context: Context) -> None:
        """Starts the run if there is one; its note names the changes."""
        start = call_task(self.call, {"due": self.due}, context, self.log.info)
        if start is None:
            raise AirflowSkipException("nothing to start, for the reason in the line above")
        self.trigger_run_id, self.conf, self.note = start.run_id, start.conf, start.why[:_NOTE_CHARACTERS]
        super().execute(context)


def _window(context: Context) -> dict[str, Any] | None:
    run = context["dag_run"]
    if run.run_type != "scheduled" or run.logical_date is None:
        return None
    before = context["ti"].get_previous_dagrun()
    since = before.logical_date if before and before.logical_date else run.logical_date - _SHORTEST
    return {"since": since, "until": run.logical_date}
