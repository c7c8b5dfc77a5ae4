"""The operator for tasks that run in the worker itself."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from airflow.sdk import AssetAlias, BaseOperator
from pydantic import TypeAdapter, validate_call

from hf2triton.context import task_context
from hf2triton.operators.failures import message_first
from include.files import disk_errors
from include.redaction import call_redacted, own_secrets

if TYPE_CHECKING:
    from airflow.providers.openlineage.extractors import OperatorLineage
    from airflow.sdk import Asset, Context

    from include.files import Log


class TaskOperator(BaseOperator):
    """The operator that calls a function of `include.tasks`.

    ``inputs`` are the function's arguments by name: values, or outputs of other tasks. They and the
    result travel as JSON, and are validated against the function's annotations. ``events`` are the task's outlets,
    each with the function that makes the ``extra`` of its event from the result. ``news`` is an asset that has an event
    for each item of the result, which is a list, and none if the list is empty.
    """

    template_fields: Sequence[str] = ("inputs",)

    told: Any = None
    """The result of the last attempt, as JSON."""

    def __init__(
        self,
        *,
        call: Callable[..., Any],
        inputs: Mapping[str, Any] | None = None,
        events: Mapping[Asset, Callable[..., dict[str, Any]]] | None = None,
        news: Asset | None = None,
        **kwargs: Any,  # noqa: ANN401
    ) -> None:
        # An asset among the outlets would have an event each time. Through an alias it has those that are added.
        self.news = news
        self.alias = news and AssetAlias(name=news.name, group=news.group)
        super().__init__(outlets=[*(events or ()), *([self.alias] if self.alias else [])], **kwargs)
        self.call = call
        self.inputs = dict(inputs or {})
        self.events = dict(events or {})

    @message_first
    def execute(self, context: Context) -> Any:  # noqa: ANN401
        """Runs the task; the result is its XCom."""
        result = call_task(self.call, self.inputs, context, self.log.info)
        self.describe(result, context)
        told = self.told = TypeAdapter(type(result)).dump_python(result, mode="json")
        if self.news and self.alias:
            for extra in told:
                context["outlet_events"][self.alias].add(self.news, extra=extra)
        return told

    def get_openlineage_facets_on_complete(self, _: object) -> OperatorLineage[Any, Any]:
        """What the task read and made; Airflow's OpenLineage provider asks, where it is switched on."""
        from hf2triton.lineage import lineage_of

        return lineage_of(self.inputs, self.told)

    def describe(self, made: Any, context: Context) -> None:  # noqa: ANN401
        """Gives the events of the task's assets their ``extra``."""
        for asset, event in self.events.items():
            context["outlet_events"][asset].extra = call_task(event, {"made": made}, context, self.log.info)


@disk_errors()
def call_task(function: Callable[..., Any], inputs: Mapping[str, Any], context: Context, log: Log) -> Any:  # noqa: ANN401
    """Calls a function of `include.tasks` with a `TaskContext`, the inputs, and the run's params if it takes them."""
    arguments = dict(inputs)
    if "params" in inspect.signature(function).parameters:
        arguments["params"] = dict(context["params"])
    call = validate_call(config={"arbitrary_types_allowed": True})(function)
    return call_redacted(lambda: call(task_context(context, log), **arguments), own_secrets())
