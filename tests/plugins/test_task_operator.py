"""What a task tells Airflow of its assets."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from airflow.sdk.execution_time.context import OutletEventAccessors

from hf2triton.assets import LIVE_RELEASE, OUTAGE
from hf2triton.operators import TaskOperator
from include.context import Context
from include.frozen import Frozen


class Item(Frozen):
    number: int


def context() -> dict[str, Any]:
    return {"ti": SimpleNamespace(dag_id="d"), "run_id": "r", "params": {}, "outlet_events": OutletEventAccessors()}


@pytest.mark.parametrize("numbers", [(), (1,), (1, 2)])
def test_an_asset_of_news_has_an_event_for_each_item_and_none_without(numbers: tuple[int, ...]) -> None:
    def tell(context: Context) -> list[Item]:
        return [Item(number=number) for number in numbers]

    task, given = TaskOperator(task_id="t", call=tell, news=OUTAGE), context()
    assert task.execute(given) == [{"number": number} for number in numbers]
    (alias,) = task.outlets
    assert alias.name == OUTAGE.name
    events = given["outlet_events"][alias].asset_alias_events
    assert [event.extra for event in events] == [{"number": number} for number in numbers]
    assert {event.dest_asset_key.uri for event in events} <= {OUTAGE.uri}


def test_an_asset_of_events_has_one_each_time() -> None:
    def release(context: Context) -> int:
        return 7

    def event(context: Context, made: int) -> dict[str, Any]:
        return {"made": made}

    task, given = TaskOperator(task_id="t", call=release, events={LIVE_RELEASE: event}), context()
    assert task.execute(given) == 7
    assert task.outlets == [LIVE_RELEASE]
    assert given["outlet_events"][LIVE_RELEASE].extra == {"made": 7}
