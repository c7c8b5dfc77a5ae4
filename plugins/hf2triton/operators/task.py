"""The operator for tasks that the worker does itself."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseOperator
from pydantic import TypeAdapter, validate_call

from hf2triton.context import task_context

if TYPE_CHECKING:
    from airflow.sdk import Context

    from include.files import Log


class TaskOperator(BaseOperator):
    """Calls ``run`` of the module in `include.tasks` that has this task's id.

    ``inputs`` are the function's arguments by name: values, or outputs of other tasks. They and the
    result travel as JSON, and are validated against the function's annotations.
    """

    template_fields = ("inputs",)

    def __init__(self, *, inputs: Mapping[str, Any] | None = None, **kwargs: Any) -> None:  # noqa: ANN401
        super().__init__(**kwargs)
        self.inputs = dict(inputs or {})

    def execute(self, context: Context) -> Any:  # noqa: ANN401
        """Does the task; the result is its XCom."""
        result = self.call("run", context)
        describe_events(self, result, context)
        return TypeAdapter(type(result)).dump_python(result, mode="json")

    def call(self, function: str, context: Context) -> Any:  # noqa: ANN401
        """Calls a function of this task's module with the worker at hand and the task's inputs."""
        return call_task(self.task_id, function, self.inputs, context, self.log.info)


def call_task(task_id: str, function: str, inputs: Mapping[str, Any], context: Context, log: Log) -> Any:  # noqa: ANN401
    """Calls a function of the module in `include.tasks` that has this task's id."""
    # Imported late: parsing a DAG must not load what its tasks need.
    module = import_module(f"include.tasks.{task_id}")
    target: Callable[..., Any] = getattr(module, function)
    arguments = dict(inputs)
    if "params" in inspect.signature(target).parameters:
        arguments["params"] = dict(context["params"])
    return validate_call(config={"arbitrary_types_allowed": True})(target)(task_context(context, log), **arguments)


def describe_events(operator: BaseOperator, made: Any, context: Context) -> None:  # noqa: ANN401
    """Events of the assets that an operator makes say what the task's module says of the result."""
    for asset in operator.outlets:
        extra = call_task(operator.task_id, "event", {"made": made}, context, operator.log.info)
        context["outlet_events"][asset].extra = extra
