"""The schedule releases: a followed model goes live, and again when it has changed; what is wrong hurts nothing else.

The tests of this module tell one story and run in their order, in the deployment that modules share: every check that
they look at was started by the schedule, once a minute.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml

from include.demo.airflow import DAG
from include.demo.run import ENDED, ask
from include.releases.records import ReleaseStore
from include.requests.release import slug_of
from tests.e2e.conftest import OWN, Deployment
from tests.e2e.rest import AnyPath
from tests.support import tiny_files as tiny
from tests.support import wait as waiting
from tests.support.hub_server import HubServer, Repo

pytestmark = pytest.mark.story

CHECK = "rebuild_on_change"
MODEL = OWN / "rebuild"
SLUG = slug_of(str(MODEL))
TIMEOUT_S = 900
SETTINGS = {
    "awq_group_size": 64,
    "calib_size": 32,
    "calib_seq_len": 64,
    "speed_concurrencies": [4],
    "min_speed_ratio": 0,
}
# Of an architecture that no target has: its runs fail within seconds.
UNUSABLE = json.dumps({**tiny.CONFIG, "architectures": ["FalconForCausalLM"]}).encode()


def entry(name: str, model: str, **fields: Any) -> dict[str, Any]:
    return {"name": name, "model": model, "target": "openvino", "schedule": "* * * * *", **fields}


wait_for = partial(waiting.wait_for, within_s=TIMEOUT_S, every_s=1)


@dataclass(frozen=True)
class Scene:
    """The catalogue, the Hub that it follows, and what Airflow makes of both."""

    catalogue: Path
    hub: HubServer
    api: AnyPath

    def follow(self, file: str, *entries: dict[str, Any]) -> None:
        draft = self.catalogue / f"{file}.draft"
        draft.write_text(yaml.safe_dump(list(entries)))
        draft.rename(self.catalogue / f"{file}.yaml")

    def publish(self, readme: str) -> str:
        """A commit on the Hub; returns it."""
        files = tiny.model(**{"config.json": UNUSABLE, "generation_config.json": json.dumps({"v": readme}).encode()})
        return self.hub.add(Repo("org/tiny", files)).commit

    def runs(self, name: str) -> list[dict[str, Any]]:
        """The release runs that an entry has started, oldest first."""
        found = self.api.get(f"/api/v2/dags/{DAG}/dagRuns?order_by=id&limit=100")["dag_runs"]
        return [run for run in found if run["dag_run_id"].startswith(f"rebuild__{name}__")]

    def ended(self, name: str, number: int) -> dict[str, Any]:
        """An entry's release run of that number, once it has ended."""
        runs = wait_for(lambda: [r for r in self.runs(name)[number - 1 :] if r["state"] in ENDED])
        return runs[0]

    def next_check(self) -> str:
        """A scheduled check that begins from now on, once it has ended."""
        known = {run["dag_run_id"] for run in self._checks()}
        ended = wait_for(lambda: [r for r in self._checks() if r["dag_run_id"] not in known and r["state"] in ENDED])
        assert ended[0]["run_type"] == "scheduled"
        return str(ended[0]["dag_run_id"])

    def states(self, check: str) -> dict[str, str]:
        """The state of each entry's task in a check, by the name that the grid shows."""
        return {t["rendered_map_index"]: t["state"] for t in self._tasks(check)}

    def log(self, check: str, name: str) -> str:
        index = {t["rendered_map_index"]: t["map_index"] for t in self._tasks(check)}[name]
        path = f"/api/v2/dags/{CHECK}/dagRuns/{check}/taskInstances/{CHECK}/logs/1?map_index={index}"
        return "\n".join(str(line.get("event")) for line in self.api.get(path)["content"])

    def _checks(self) -> list[dict[str, Any]]:
        return list(self.api.get(f"/api/v2/dags/{CHECK}/dagRuns?order_by=-id&limit=5")["dag_runs"])[::-1]

    def _tasks(self, check: str) -> list[dict[str, Any]]:
        tasks = self.api.get(f"/api/v2/dags/{CHECK}/dagRuns/{check}/taskInstances")["task_instances"]
        return [task for task in tasks if task["task_id"] == CHECK]


@pytest.fixture(scope="module")
def deployment(shared: Deployment) -> Deployment:
    return shared


@pytest.fixture(scope="module")
def scene(deployment: Deployment, catalogue: Path, hub: HubServer) -> Iterator[Scene]:
    """Everything is followed until the module ends."""
    api = deployment.api()
    scene = Scene(catalogue, hub, api)
    scene.follow("live", entry("smollm2", str(MODEL), settings=SETTINGS))
    scene.publish("first")
    scene.follow("hub", entry("tiny", "org/tiny"))
    wait_for(lambda: api.has_dag(CHECK))
    for dag in (DAG, CHECK):
        api.patch(f"/api/v2/dags/{dag}", {"is_paused": False})
    yield scene
    api.patch(f"/api/v2/dags/{CHECK}", {"is_paused": True})
    for file in catalogue.glob("*.yaml"):
        file.unlink()


def test_the_schedule_brings_a_followed_model_to_the_live_address(
    scene: Scene, releases: ReleaseStore, live: str
) -> None:
    run = scene.ended("smollm2", 1)
    assert (run["state"], run["triggered_by"]) == ("success", "operator")
    outcome, _, why = run["note"].partition("\n")
    assert outcome.endswith("-> release 1, promoted")
    assert why.startswith("smollm2: new: no run was started for this entry yet; ")
    assert releases.live(MODEL.name).name == f"{SLUG}/1"
    assert ask(live.replace("ensemble", MODEL.name))


def test_a_run_that_failed_does_not_disturb_the_other_model(scene: Scene) -> None:
    run = scene.ended("tiny", 1)
    assert run["state"] == "failed"
    assert scene.api.tasks(DAG, run["dag_run_id"])["check_request"].state == "failed"


def test_while_nothing_changes_nothing_runs(scene: Scene) -> None:
    check = scene.next_check()
    assert scene.states(check) == {"smollm2": "skipped", "tiny": "skipped"}
    for name, end in (("smollm2", "success"), ("tiny", "failed")):
        (run,) = scene.runs(name)
        assert f"{name}: unchanged since run {run['dag_run_id']} ({end})" in scene.log(check, name)


def test_a_changed_setting_and_a_new_commit_start_one_run_each(scene: Scene, releases: ReleaseStore, live: str) -> None:
    old = scene.hub.repos["model", "org/tiny"].commit
    new = scene.publish("second")
    scene.follow("live", entry("smollm2", str(MODEL), settings={**SETTINGS, "max_batch_size": 4}))
    scene.follow("broken", entry("broken", "org/other", targt="openvino"))
    run = scene.ended("smollm2", 2)
    assert (run["state"], run["note"].splitlines()[-1]) == (
        "success",
        "smollm2: changed: settings.max_batch_size: 8 -> 4",
    )
    assert releases.live(MODEL.name).name == f"{SLUG}/2"
    assert ask(live.replace("ensemble", MODEL.name))
    run = scene.ended("tiny", 2)
    assert (run["conf"]["revision"], run["note"].splitlines()[-1]) == (
        new,
        f"tiny: changed: commit: {old[:12]}... -> {new[:12]}...",
    )


def test_a_broken_entry_is_shown_and_hurts_nothing(scene: Scene) -> None:
    (error,) = wait_for(scene.api.import_errors)
    assert "broken.yaml:1: broken: targt: " in error
    check = scene.next_check()
    assert scene.states(check) == {"smollm2": "skipped", "tiny": "skipped", "broken": "failed"}
    assert (len(scene.runs("smollm2")), len(scene.runs("tiny")), scene.runs("broken")) == (2, 2, [])
    (scene.catalogue / "broken.yaml").unlink()
    wait_for(lambda: not scene.api.import_errors())
