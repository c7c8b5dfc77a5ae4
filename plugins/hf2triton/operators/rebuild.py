"""The operators of DAG `rebuild_on_change`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from airflow.providers.standard.operators.trigger_dagrun import TriggerDagRunOperator
from airflow.sdk.exceptions import AirflowSkipException

from hf2triton.context import RELEASE_DAG
from hf2triton.operators.task import TaskOperator, call_task

if TYPE_CHECKING:
    from airflow.sdk import Context

_NOTE_CHARACTERS = 1000  # as many as Airflow keeps
_SHORTEST = timedelta(minutes=1)


class CatalogueOperator(TaskOperator):
    """Tells its task which times of schedules the run answers for: those since the run before it.

    So no entry is forgotten if the scheduler was down. A run by hand answers for none.
    """

    def execute(self, context: Context) -> Any:  # noqa: ANN401
        """Returns the entries that are due."""
        self.inputs = {"window": _window(context)}
        return super().execute(context)


class RebuildOperator(TriggerDagRunOperator):
    """Starts the release run of one followed model that ``call`` returns; skips itself if it returns None."""

    template_fields = ("due",)

    def __init__(self, *, call: Callable[..., Any], due: Mapping[str, Any], **kwargs: Any) -> None:  # noqa: ANN401
        # A paused DAG would collect runs that nobody sees; no logical date: several may start in one moment.
        super().__init__(trigger_dag_id=RELEASE_DAG, fail_when_dag_is_paused=True, logical_date=None, **kwargs)
        self.call = call
        self.due = due

    def execute(self, context: Context) -> None:
        """Decides, and starts the run; its note says what has changed."""
        start = call_task(self.call, {"due": self.due}, context, self.log.info)
        if start is None:
            raise AirflowSkipException("nothing to start")
        self.trigger_run_id, self.conf, self.note = start.run_id, start.conf, start.why[:_NOTE_CHARACTERS]
        super().execute(context)


def _window(context: Context) -> dict[str, Any] | None:
    run = context["dag_run"]
    if run.run_type != "scheduled" or run.logical_date is None:
        return None
    before = context["ti"].get_previous_dagrun()
    since = before.logical_date if before and before.logical_date else run.logical_date - _SHORTEST
    return {"since": since, "until": run.logical_date}
