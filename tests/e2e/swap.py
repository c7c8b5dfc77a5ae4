"""Two models live, a release and a rollback of one, through Airflow, while other processes ask both all the time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.console import Console

from include.demo import run
from include.demo.__main__ import DEMO
from include.demo.api import AirflowApi
from include.releases.records import ReleaseStore
from include.requests.names import default_name
from include.requests.release import slug_of
from tests.e2e.conftest import MODEL
from tests.support.live import load_on
from tests.support.wait import wait_for

SLUG, OTHER = slug_of(str(MODEL)), "other"


def release_and_roll_back(api: AirflowApi, artifacts: Path, live: str) -> None:
    """Release 1 of the demo's model is live; 2 becomes live beside it, under another name. 3 takes the place of 1.

    Then 1 comes back, and 2 is retired. No request to ``live`` fails, by name or without one.
    """
    releases = ReleaseStore(artifacts / "releases")
    quick = {**DEMO, "model": str(MODEL), "min_speed_ratio": 0, "speed_concurrencies": [4]}
    run.release(api, {**quick, "served_name": OTHER, "aliases": ["chat"]}, Console())
    assert {name: str(release) for name, release in releases.live_ids().items()} == {
        default_name(str(MODEL)): f"{SLUG}/1",
        OTHER: f"{SLUG}/2",
    }
    with load_on(live) as counts, load_on(live, OTHER) as others:
        # Another repository, and so another release, from the same engine. Its speed is not compared with that of a
        # server that others keep busy.
        run.release(api, {**quick, "max_batch_size": 16}, Console())
        assert releases.live().name == f"{SLUG}/3"
        succeed(api, "rollback_release", {"model": str(MODEL)})
    assert releases.live().name == f"{SLUG}/1"
    with load_on(live) as later:
        succeed(api, "retire_model", {"name": OTHER})
    for counted in (counts, others, later):
        print(f"{sum(counted.values())} requests")
        assert {said: number for said, number in counted.items() if said.startswith("failed")} == {}
    assert [releases.state(release) for release in releases.all(SLUG)] == ["live", "retired", "retired"]
    assert releases.live_names() == [default_name(str(MODEL))]


def succeed(api: AirflowApi, dag: str, conf: dict[str, Any]) -> None:
    started = api.trigger(dag, conf)
    wait_for(lambda: api.run_state(dag, started) in run.ENDED, within_s=900, every_s=0.5)
    assert api.run_state(dag, started) == "success"
