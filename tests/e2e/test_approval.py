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


@dataclass(frozen=True)
class Airflow:
    """Airflow as a person uses it: triggers, looks, decides."""

    api: AirflowApi
    http: httpx.Client

    def trigger(self, **conf: Any) -> str:
        small = {"model": str(MODEL), "awq_group_size": 64, "calib_size": 32, "calib_seq_len": 64}
        return self.api.trigger(DAG, {**small, **conf})

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
        return self.wait(run, lambda states: False, timeout_s)

    def wait_for_the_question(self, run: str) -> dict[str, Any]:
        states = self.wait(run, lambda states: states["approve_release"] == "awaiting_input")
        assert states["approve_release"] == "awaiting_input", states
        return dict(self.http.get(self._question(run)).raise_for_status().json())

    def decide(self, run: str, option: str) -> dict[str, str | None]:
        """Answers, and waits until the run has ended."""
        self.http.patch(self._question(run), json={"chosen_options": [option]}).raise_for_status()
        return self.wait_for_the_end(run)

    def _question(self, run: str) -> str:
        return f"/api/v2/dags/{DAG}/dagRuns/{run}/taskInstances/approve_release/-1/hitlDetails"


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
    run = airflow.trigger()
    airflow.wait_for_the_end(run, FIRST_TIMEOUT_S)
    return run


@pytest.fixture(scope="module")
def rejected(airflow: Airflow, first: str) -> str:
    run = airflow.trigger(**ASKED, **OTHER)
    airflow.wait_for_the_question(run)
    return run


def state_of(releases: ReleaseStore, number: int) -> str:
    return releases.state(releases.get(SLUG, number))


def answers(url: str) -> bool:
    return bool(httpx.post(url, json=SEED_REQUEST, timeout=120).raise_for_status().json()["text_output"])


def test_unless_asked_for_the_gates_decide(airflow: Airflow, first: str, releases: ReleaseStore) -> None:
    states = airflow.states(first)
    assert states.pop("approve_release") == "skipped"
    assert set(states.values()) == {"success"}
    assert state_of(releases, 1) == "live"


def test_the_question_has_the_scores_and_who_may_answer(airflow: Airflow, rejected: str) -> None:
    question = airflow.wait_for_the_question(rejected)
    assert "| gate | verdict |" in question["body"]
    assert "| agreement | pass |" in question["body"]
    assert [user["id"] for user in question["assigned_users"]] == [USER]
    assert question["defaults"] == ["Reject"]


def test_while_nobody_has_decided_candidate_and_live_both_answer(
    airflow: Airflow, rejected: str, releases: ReleaseStore, live: str
) -> None:
    assert state_of(releases, 1) == "live"
    assert state_of(releases, 2) == "candidate"
    assert answers(live)
    candidate = airflow.wait_for_the_question(rejected)["body"].split("answers at `")[1].split("`")[0]
    assert answers(f"{candidate}/v2/models/ensemble/generate")


def test_a_no_rejects_the_release_and_leaves_the_live_one_alone(
    airflow: Airflow, rejected: str, releases: ReleaseStore, live: str, deployment: Deployment
) -> None:
    states = airflow.decide(rejected, "Reject")
    assert states["promote_release"] == "skipped"
    assert states["stop_candidate"] == "success"
    assert state_of(releases, 2) == "rejected"
    assert state_of(releases, 1) == "live"
    assert answers(live)
    assert not list((deployment.settings.artifacts / "servers").glob("candidate-*.json"))


def test_a_yes_makes_the_release_live(airflow: Airflow, rejected: str, releases: ReleaseStore, live: str) -> None:
    run = airflow.trigger(**ASKED, **OTHER)
    airflow.wait_for_the_question(run)
    states = airflow.decide(run, "Approve")
    assert states["promote_release"] == "success"
    assert [state_of(releases, number) for number in (1, 2, 3)] == ["retired", "rejected", "live"]
    assert answers(live)


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
