"""The live server dies, and nobody does anything about it."""

from __future__ import annotations

from collections.abc import Callable

from include.demo import run
from include.releases.records import ReleaseStore
from tests.e2e.rest import AnyPath
from tests.support.wait import wait_for

CHECK = "check_live_release"


def comes_back(api: AnyPath, releases: ReleaseStore, endpoint: str, kill: Callable[[], None]) -> str:
    """Kills the live server and waits until it answers again; returns the cause that the release's record names.

    The outage is over on record, and Airflow has an event of it after the next check, which needs no unpausing.
    """
    before = releases.live().outages
    kill()
    wait_for(lambda: len(releases.live().outages) > len(before), "the record of the outage")
    wait_for(lambda: releases.live().outage is None, "its end", within_s=300)
    run.ask(endpoint)
    *others, outage = releases.live().outages
    assert tuple(others) == before
    announce(api)
    events = api.get("/api/v2/assets/events?limit=100&order_by=-timestamp")["asset_events"]
    since = outage.model_dump(mode="json")["since"]
    found = [event["extra"] for event in events if event["extra"].get("since") == since]
    assert found[0]["until"], "the last event is that of its end"
    assert found[0]["cause"] == outage.cause
    return outage.cause


def announce(api: AnyPath) -> None:
    """Runs the check as its schedule does: it is on, nobody had to unpause it."""
    assert api.get(f"/api/v2/dags/{CHECK}")["is_paused"] is False
    check = api.trigger(CHECK, {})
    wait_for(lambda: api.run_state(CHECK, check) in run.ENDED, within_s=600, every_s=0.5)
    assert api.run_state(CHECK, check) == "success"
