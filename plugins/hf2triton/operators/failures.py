"""The failures of tasks: the message first, and what came of the run."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import wraps
from typing import TYPE_CHECKING, Any

from hf2triton.context import ERROR, OUTCOME, keep
from include.errors import Cancelled, Ended, GateFailure, PipelineError, UserError

if TYPE_CHECKING:
    from airflow.sdk import BaseOperator, Context

_LONGEST = 200
_FIELD = re.compile(r"fields? ([a-z_0-9]+)")


def message_first(execute: Callable[..., Any]) -> Callable[..., Any]:
    """Wraps a method that does a task's work: a failure's message is logged before Airflow logs its traceback.

    The traceback has none of this project's frames, as the message says what is wrong and what to do; level DEBUG has
    all of them. An error that is no `PipelineError` is a defect, and is left as it is.
    """

    @wraps(execute)
    def told(self: BaseOperator, context: Context, **arguments: Any) -> Any:  # noqa: ANN401
        try:
            return execute(self, context, **arguments)
        except PipelineError as error:
            failure = error
        self.log.error("%s: %s", type(failure).__name__, failure)
        self.log.debug("it was raised here", exc_info=failure)
        if not isinstance(failure, Ended):  # of a cancelled run, `finish_run` tells what came of it
            keep(context, OUTCOME, outcome_of(failure, self.task_id))
        keep(context, ERROR, str(failure))
        raise failure.with_traceback(None) from None

    return told


def outcome_of(failure: PipelineError, task: str) -> str:
    """A failure in a few words, with the field of the request if it names one."""
    what = failure.what.strip().partition("\n")[0]
    what = what if len(what) <= _LONGEST else f"{what[:_LONGEST]}..."
    field = _FIELD.match(failure.where)
    if field and field[1] not in what:
        what = f"{field[1]}: {what}"
    if isinstance(failure, UserError):
        return f"refused: {what}"
    if isinstance(failure, GateFailure):
        return what if "rejected" in what else f"rejected: {what}"
    return what if isinstance(failure, Cancelled) else f"{task} failed: {what}"
