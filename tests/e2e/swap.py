"""Three models live at one address, through Airflow: each is released again and rolled back while all are asked.

One is the demo's, one comes by another run, and one by the catalogue. Their runs go on at the same time.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from include.demo import run
from include.demo.__main__ import DEMO
from include.releases.records import ReleaseStore
from include.requests.names import default_name
from include.requests.release import slug_of
from tests.e2e.conftest import MODEL, Deployment
from tests.e2e.rest import AnyPath
from tests.e2e.stack import TINY
from tests.support.live import load_on
from tests.support.wait import wait_for

SLUG = slug_of(str(MODEL))
CHECK, ROLL_BACK, RETIRE = "rebuild_on_change", "rollback_release", "retire_model"
DEFAULT, SECOND, FOLLOWED = default_name(str(MODEL)), "second", "followed"
NAMES = (DEFAULT, SECOND, FOLLOWED)
WAIT_S = 900

Run = tuple[str, str]
"""A DAG, and the id of one of its runs."""


@dataclass(frozen=True)
class Scene:
    """A deployment in which only the demo's model is live, and what follows models for it."""

    api: AnyPath
    deployment: Deployment
    catalogue: Path
    tiny: Path

    @property
    def live(self) -> str:
        return f"http://127.0.0.1:{self.deployment.settings.live_http_port}"

    @property
    def releases(self) -> ReleaseStore:
        return ReleaseStore(self.deployment.settings.artifacts / "releases")

    def live_ids(self) -> dict[str, str]:
        return {name: str(release) for name, release in self.releases.live_ids().items()}

    def start(self, dag: str, **conf: Any) -> Run:
        return dag, self.api.trigger(dag, conf)

    def release_second(self, **conf: Any) -> Run:
        tiny = {**TINY, "target": "openvino", "model": str(self.tiny)}
        return self.start(run.DAG, **tiny, served_name=SECOND, aliases=["chat"], **conf)

    def follow(self, **settings: Any) -> Run:
        """Puts the model into the catalogue; returns the release run that a check of the catalogue starts."""
        settings = {**TINY, "served_name": FOLLOWED, **settings}
        entry = {"name": FOLLOWED, "model": str(self.tiny), "target": "openvino", "schedule": "@yearly"}
        (self.catalogue / "many.yaml").write_text(yaml.safe_dump([{**entry, "settings": settings}]))
        known = self._followed()
        self.succeed(self.start(CHECK))
        (started,) = self._followed() - known
        return run.DAG, started

    def succeed(self, *runs: Run) -> None:
        """Waits for the ends of runs, which may go on at the same time."""
        for dag, one in runs:
            wait_for(lambda dag=dag, one=one: self.api.run_state(dag, one) in run.ENDED, within_s=WAIT_S, every_s=0.5)
            failed = [task for task in self.api.tasks(dag, one).values() if task.state == "failed"]
            assert [f"{task.task}: {self.api.error(dag, one, task)}" for task in failed] == []
            assert self.api.run_state(dag, one) == "success", (dag, one)

    @contextmanager
    def load(self, *names: str) -> Iterator[None]:
        """Asks these names all the time; fails if a request has failed."""
        with ExitStack() as loads:
            # The runs need the host's cores, too; what swaps under heavier load is tried without them.
            counted = {name: loads.enter_context(load_on(self.live, name, pause_s=1)) for name in names}
            yield
        for name, counts in counted.items():
            print(f"{sum(counts.values())} requests to {name}")
            assert {said: number for said, number in counts.items() if said.startswith("failed")} == {}

    def _followed(self) -> set[str]:
        runs = self.api.get(f"/api/v2/dags/{run.DAG}/dagRuns?limit=100")["dag_runs"]
        return {one["dag_run_id"] for one in runs if one["dag_run_id"].startswith(f"rebuild__{FOLLOWED}__")}


def release_and_roll_back(scene: Scene) -> None:
    """No request to the address fails, by name, by alias or without a name; in the end the demo's model is left."""
    scene.succeed(scene.follow(), scene.release_second())
    first = scene.live_ids()
    assert sorted(first) == sorted(NAMES)
    with scene.load("ensemble", "chat", FOLLOWED):
        # Other repositories, and so other releases, from the same engines. The speed is not compared with that of a
        # server that others keep busy.
        quick = {**DEMO, "model": str(MODEL), "min_speed_ratio": 0, "speed_concurrencies": [4], "max_batch_size": 16}
        of_demo = scene.start(run.DAG, **quick)
        scene.succeed(of_demo, scene.follow(max_batch_size=4), scene.release_second(max_batch_size=4))
        assert [name for name in NAMES if scene.live_ids()[name] == first[name]] == []
        scene.succeed(*(scene.start(ROLL_BACK, name=name) for name in NAMES))
        assert scene.live_ids() == first
    (scene.catalogue / "many.yaml").unlink()
    with scene.load("ensemble"):
        scene.succeed(*(scene.start(RETIRE, name=name) for name in (SECOND, FOLLOWED)))
    assert scene.live_ids() == {DEFAULT: first[DEFAULT]}
