"""What a task tells Airflow of its assets, and what becomes of the errors of its function."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.sdk.execution_time.context import OutletEventAccessors

from hf2triton.assets import LIVE_RELEASE, OUTAGE
from hf2triton.operators import TaskOperator, task
from include.context import Context
from include.errors import HostError
from include.frozen import Frozen
from include.settings import Settings


class Item(Frozen):
    number: int


def context() -> dict[str, Any]:
    return {"ti": SimpleNamespace(dag_id="d"), "run_id": "r", "params": {}, "outlet_events": OutletEventAccessors()}


@pytest.mark.parametrize("numbers", [(), (1,), (1, 2)])
def test_an_asset_of_news_has_an_event_for_each_item_and_none_without(numbers: tuple[int, ...]) -> None:
    def tell(context: Context) -> list[Item]:
        return [Item(number=number) for number in numbers]

    told, given = TaskOperator(task_id="t", call=tell, news=OUTAGE), context()
    assert told.execute(given) == [{"number": number} for number in numbers]
    (alias,) = told.outlets
    assert alias.name == OUTAGE.name
    events = given["outlet_events"][alias].asset_alias_events
    assert [event.extra for event in events] == [{"number": number} for number in numbers]
    assert {event.dest_asset_key.uri for event in events} <= {OUTAGE.uri}


def test_an_asset_of_events_has_one_each_time() -> None:
    def release(context: Context) -> int:
        return 7

    def event(context: Context, made: int) -> dict[str, Any]:
        return {"made": made}

    told, given = TaskOperator(task_id="t", call=release, events={LIVE_RELEASE: event}), context()
    assert told.execute(given) == 7
    assert told.outlets == [LIVE_RELEASE]
    assert given["outlet_events"][LIVE_RELEASE].extra == {"made": 7}


def test_a_path_that_cannot_be_used_is_a_host_error_that_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = Context(settings=Settings(artifacts=tmp_path), log=print, dag_id="d", run_id="r")
    monkeypatch.setattr(task, "task_context", lambda *_: context)

    def run(context: Context) -> None:
        (tmp_path / "x" / "y").touch()

    for _ in range(2):
        with pytest.raises(HostError, match="No such file") as caught:
            task.call_task(run, {}, {}, print)
        assert caught.value.where == str(tmp_path / "x" / "y")
