"""A person decides, through Airflow's REST API; and the report is where people look for it.

The tests of this module tell one story and run in their order, in the deployment that modules share.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

from include.demo.airflow import DAG, USER, password, url_of
from include.demo.api import AirflowApi
from include.demo.run import ENDED, SEED_REQUEST
from include.releases.records import ReleaseStore
from include.requests.release import slug_of
from tests.e2e.conftest import OWN, Deployment
from tests.support.wait import wait_for

pytestmark = pytest.mark.story

MODEL = OWN / "approval"
SLUG = slug_of(str(MODEL))
TIMEOUT_S = 300
# The first run makes what the store does not have yet.
FIRST_TIMEOUT_S = 1800
ASKED = {"require_approval": True, "approvers": [USER]}
# Another repository, and so another release, from the same engine.
OTHER = {"max_batch_size": 4}
# The gates are tried as little as they can be.
SMALL = {"awq_group_size": 64, "calib_size": 32, "calib_seq_len": 64, "speed_concurrencies": [1], "min_speed_ratio": 0}


@dataclass(frozen=True)
class Airflow:
    """Airflow as a person uses it: triggers, looks, decides."""

    api: AirflowApi
    http: httpx.Client

    def trigger(self, **conf: Any) -> str:
        return self.api.trigger(DAG, {"model": str(MODEL), **SMALL, **conf})

    def states(self, run: str) -> dict[str, str | None]:
        return {task: instance.state for task, instance in self.api.tasks(DAG, run).items()}

    def wait(
        self, run: str, until: Callable[[dict[str, str | None]], bool], timeout_s: float = TIMEOUT_S
    ) -> dict[str, str | None]:
        """The states of the run's tasks, once they are as wanted, or the run has ended."""

        def reached() -> dict[str, str | None] | None:
            states = self.states(run)
            return states if until(states) or all(state in ENDED for state in states.values()) else None

        return wait_for(reached, run, within_s=timeout_s, every_s=0.5)

    def wait_for_the_end(self, run: str, timeout_s: float = TIMEOUT_S) -> dict[str, str | None]:
        states = self.wait(run, lambda states: False, timeout_s)
        # Airflow ends the run a moment after its last task; what is cleared in between would not run again.
        wait_for(lambda: self.api.run_state(DAG, run) in ENDED, run, within_s=timeout_s, every_s=0.5)
        return states

    def wait_for_the_question(self, run: str, timeout_s: float = TIMEOUT_S) -> dict[str, Any]:
        states = self.wait(run, lambda states: states["approve_release"] == "awaiting_input", timeout_s)
        assert states["approve_release"] == "awaiting_input", states
        return dict(self.http.get(f"{self._task(run)}/-1/hitlDetails").raise_for_status().json())

    def decide(self, run: str, option: str, comment: str) -> dict[str, str | None]:
        """Answers, and waits until the run has ended."""
        answer = {"chosen_options": [option], "params_input": {"comment": comment}}
        self.http.patch(f"{self._task(run)}/-1/hitlDetails", json=answer).raise_for_status()
        return self.wait_for_the_end(run)

    def set_to_success(self, run: str) -> dict[str, str | None]:
        """Does what everyone can do who may edit task instances, and waits until the run has ended."""
        self.http.patch(self._task(run), json={"new_state": "success"}).raise_for_status()
        return self.wait_for_the_end(run)

    def note(self, run: str) -> str:
        """The run's note."""
        return str(self.http.get(f"/api/v2/dags/{DAG}/dagRuns/{run}").raise_for_status().json()["note"])

    def clear(self, run: str) -> None:
        """Has the approval and all that follows run again."""
        chosen = {"dag_run_id": run, "task_ids": ["approve_release"], "include_downstream": True, "only_failed": False}
        body = {**chosen, "dry_run": False, "reset_dag_runs": True}
        self.http.post(f"/api/v2/dags/{DAG}/clearTaskInstances", json=body).raise_for_status()

    def _task(self, run: str) -> str:
        return f"/api/v2/dags/{DAG}/dagRuns/{run}/taskInstances/approve_release"


@pytest.fixture(scope="module")
def deployment(shared: Deployment) -> Deployment:
    return shared


@pytest.fixture(scope="module")
def airflow(deployment: Deployment) -> Airflow:
    url = url_of(deployment.settings)
    login = httpx.post(f"{url}/auth/token", json={"username": USER, "password": password(deployment.settings)})
    token = {"Authorization": f"Bearer {login.raise_for_status().json()['access_token']}"}
    return Airflow(deployment.api(), httpx.Client(base_url=url, headers=token, timeout=30, follow_redirects=True))


@pytest.fixture(scope="module")
def first(airflow: Airflow) -> str:
    """A run that asks; until it is answered, nothing is live."""
    run = airflow.trigger(**ASKED)
    airflow.wait_for_the_question(run, FIRST_TIMEOUT_S)
    return run


def state_of(releases: ReleaseStore, number: int) -> str:
    return releases.state(releases.get(SLUG, number))


def answers(url: str) -> bool:
    return bool(httpx.post(url, json=SEED_REQUEST, timeout=120).raise_for_status().json()["text_output"])


def test_the_question_has_the_scores_and_who_may_answer_and_where_to_try_it(
    airflow: Airflow, first: str, releases: ReleaseStore
) -> None:
    question = airflow.wait_for_the_question(first)
    assert "| gate | verdict |" in question["body"]
    assert "| agreement | pass |" in question["body"]
    assert [user["id"] for user in question["assigned_users"]] == [USER]
    assert question["defaults"] == ["Reject"]
    assert list(question["params"]) == ["comment"]
    candidate = question["body"].split("answers at `")[1].split("`")[0]
    assert answers(f"{candidate}/v2/models/ensemble/generate")
    assert state_of(releases, 1) == "candidate"


def test_a_task_that_is_set_to_success_has_approved_nothing(
    airflow: Airflow, first: str, releases: ReleaseStore
) -> None:
    states = airflow.set_to_success(first)
    assert states["promote_release"] == "failed"
    assert states["stop_candidate"] == "success"
    promotion = airflow.api.tasks(DAG, first)["promote_release"]
    error = airflow.api.error(DAG, first, promotion)
    assert f"release {SLUG}/1 has not been approved" in error
    assert "clear task approve_release" in error
    assert state_of(releases, 1) == "candidate"


def test_cleared_it_asks_again_and_a_yes_makes_the_release_live(
    airflow: Airflow, first: str, releases: ReleaseStore, live: str
) -> None:
    airflow.clear(first)
    airflow.wait_for_the_question(first)
    states = airflow.decide(first, "Approve", "tried by hand")
    assert states["promote_release"] == "success"
    assert airflow.note(first) == "approval int4 g64 -> release 1, promoted"
    (asked,) = releases.get(SLUG, 1).approvals
    assert asked.answer
    assert (asked.answer.approved, asked.answer.by, asked.answer.comment) == (True, USER, "tried by hand")
    assert state_of(releases, 1) == "live"
    assert answers(live)


def test_a_no_rejects_the_release_and_keeps_who_and_why_and_leaves_the_live_one_alone(
    airflow: Airflow, first: str, releases: ReleaseStore, live: str, deployment: Deployment
) -> None:
    run = airflow.trigger(**ASKED, **OTHER)
    airflow.wait_for_the_question(run)
    assert answers(live)
    states = airflow.decide(run, "Reject", "too slow")
    assert (states["approve_release"], states["promote_release"]) == ("failed", "upstream_failed")
    assert states["stop_candidate"] == "success"
    assert airflow.api.run_state(DAG, run) == "failed"
    assert f"release {SLUG}/2 is rejected by {USER}" in airflow.note(run)
    assert "too slow" in airflow.note(run)
    assert [state_of(releases, number) for number in (1, 2)] == ["live", "rejected"]
    assert answers(live)
    assert not list((deployment.settings.artifacts / "servers").glob("candidate-*.json"))
    page = airflow.http.get(f"/hf2triton/reports/{SLUG}/2/report.html").raise_for_status().text
    assert f"rejected by {USER}" in page
    assert "too slow" in page


@pytest.mark.parametrize("task", ["validate_generate", "approve_release", "promote_release", "stop_candidate"])
def test_the_button_of_a_task_leads_to_the_report(airflow: Airflow, first: str, task: str) -> None:
    links = airflow.http.get(f"/api/v2/dags/{DAG}/dagRuns/{first}/taskInstances/{task}/links").json()["extra_links"]
    page = airflow.http.get(links["Release report"])
    assert page.url.path == f"/hf2triton/reports/{SLUG}/1/report.html"
    assert "Passed its gates" in page.text


def test_the_list_of_releases_has_all_of_them(airflow: Airflow, first: str) -> None:
    page = airflow.http.get("/hf2triton/releases").raise_for_status().text
    assert SLUG in page
    assert f"reports/{SLUG}/1/report.html" in page


@pytest.mark.parametrize("page", ["releases", f"reports/{SLUG}/1/report.html", f"reports/{SLUG}/1/report.json"])
def test_nobody_sees_a_page_without_a_login(airflow: Airflow, first: str, page: str) -> None:
    assert httpx.get(airflow.http.base_url.join(f"/hf2triton/{page}")).status_code == httpx.codes.UNAUTHORIZED
