"""A release and its rollback, through Airflow, while another process asks the live address all the time."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from include.demo import run
from include.demo.__main__ import DEMO
from include.demo.api import AirflowApi
from include.releases.records import ReleaseStore
from include.requests.release import slug_of
from tests.e2e.conftest import MODEL
from tests.support.live import load_on
from tests.support.wait import wait_for

SLUG = slug_of(str(MODEL))


def release_and_roll_back(api: AirflowApi, artifacts: Path, live: str) -> None:
    """Release 1 of the demo's model is live; 2 takes its place, then 1 again. No request to ``live`` fails."""
    releases = ReleaseStore(artifacts / "releases")
    with load_on(live) as counts:
        # Another repository, and so another release, from the same engine. Its speed is not compared with that of a
        # server that others keep busy.
        other = {
            **DEMO,
            "model": str(MODEL),
            "max_batch_size": 16,
            "min_speed_ratio": 0,
            "speed_concurrencies": [4],
        }
        run.release(api, other, Console())
        assert releases.live().name == f"{SLUG}/2"
        rollback = api.trigger("rollback_release", {"model": str(MODEL)})
        wait_for(lambda: api.run_state("rollback_release", rollback) in run.ENDED, within_s=900, every_s=0.5)
        assert api.run_state("rollback_release", rollback) == "success"
    assert releases.live().name == f"{SLUG}/1"
    print(f"{sum(counts.values())} requests")
    assert {said: number for said, number in counts.items() if said.startswith("failed")} == {}
    assert [releases.state(release) for release in releases.all(SLUG)] == ["live", "retired"]
