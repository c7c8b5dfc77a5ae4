"""The approval asks, waits, and acts on the answer."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.dag_processing.dagbag import DagBag
from airflow.providers.standard.operators import hitl
from airflow.sdk import BaseOperator
from airflow.sdk.exceptions import AirflowSkipException, TaskAwaitingInput

from hf2triton.context import find_users
from hf2triton.operators import ReleaseApprovalOperator
from include import report
from include.errors import GateFailure, UserError
from include.releases.records import ReleaseStore
from include.settings import PROJECT, Settings, settings
from include.triton.servers import Ports, ServerPlan, ServerRecord
from tests.support.live import Deployment
from tests.support.report import report as example

RUN = "manual__1"
MODEL = "org--model"
ASKED = {"require_approval": True}


@pytest.fixture(autouse=True)
def fresh_settings() -> Iterator[None]:
    yield
    settings.cache_clear()


@pytest.fixture
def releases(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ReleaseStore:
    """A store with one release that has passed its gates."""
    monkeypatch.setenv("HF2TRITON_ARTIFACTS", str(tmp_path))
    settings.cache_clear()
    deployment = Deployment(Settings())
    release = deployment.release("un", model=MODEL)
    report.write(deployment.releases.path(release), example())
    return deployment.releases


@pytest.fixture(scope="module")
def bag() -> DagBag:
    return DagBag(PROJECT / "dags")


@pytest.fixture
def approval(bag: DagBag, tmp_path: Path) -> ReleaseApprovalOperator:
    """The task of the releasing DAG, as if the tasks before it had been run."""
    ports = Ports(http=8123, grpc=1, metrics=2)
    plan = ServerPlan(target="openvino", repository=tmp_path, argv=("triton",), env={}, ports=ports)
    candidate = ServerRecord(plan=plan, log=tmp_path / "log").model_dump(mode="json")
    task = bag.dags["release_awq_engine"].get_task("approve_release")
    task.inputs = {"release": {"model": MODEL, "number": 1}, "candidate": candidate}
    return task


@pytest.fixture
def rollback(bag: DagBag) -> ReleaseApprovalOperator:
    return bag.dags["rollback_release"].get_task("approve_release")


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What reaches Airflow's database of questions."""
    questions: list[dict[str, Any]] = []
    monkeypatch.setattr(hitl, "upsert_hitl_detail", lambda **question: questions.append(question))
    return questions


def context(operator: BaseOperator, ti: str = "1", by: str | None = None, **params: Any) -> Any:
    instance = SimpleNamespace(id=ti, dag_id=operator.dag_id, map_index=-1, xcom_push=lambda **_: None)
    return {
        "ti": instance,
        "task_instance": instance,
        "task": operator,
        "run_id": RUN,
        "dag_run": SimpleNamespace(triggering_user_name=by),
        # Airflow adds the params of the task to those of the run.
        "params": {**params, **operator.params},
    }


def answer(option: str, user: str | None = "ann", **entered: str) -> dict[str, Any]:
    return {
        "chosen_options": [option],
        "params_input": entered,
        "responded_at": datetime.now(UTC),
        "responded_by_user": user and {"id": user, "name": user},
    }


def ask(operator: ReleaseApprovalOperator, **options: Any) -> TaskAwaitingInput:
    with pytest.raises(TaskAwaitingInput) as waiting:
        operator.execute(context(operator, **options))
    return waiting.value


def test_it_skips_itself_where_the_gates_decide(releases: ReleaseStore, approval: ReleaseApprovalOperator) -> None:
    with pytest.raises(AirflowSkipException, match="neither the request nor the deployment requires an approval"):
        approval.execute(context(approval))


def test_it_asks_who_may_answer_and_waits_as_long_as_it_may(
    releases: ReleaseStore, approval: ReleaseApprovalOperator, asked: list[dict[str, Any]]
) -> None:
    waiting = ask(approval, **ASKED, approvers=["admin"], approval_timeout_h=2)
    assert waiting.timeout == timedelta(hours=2)
    (question,) = asked
    assert question["assigned_users"] == [{"id": "admin", "name": "admin"}]
    assert question["defaults"] == ["Reject"]
    assert list(question["params"]) == ["comment"]
    assert f"[Release report](/hf2triton/runs/release_awq_engine/{RUN})" in question["body"]


def test_after_a_no_the_release_is_rejected_and_the_task_fails_with_who_and_why(
    releases: ReleaseStore, approval: ReleaseApprovalOperator, asked: list[dict[str, Any]]
) -> None:
    ask(approval, **ASKED)
    with pytest.raises(GateFailure, match=f"release {MODEL}/1 is rejected by ann .*: too slow"):
        approval.execute_complete(context(approval), event=answer("Reject", comment="too slow"))
    assert releases.state(releases.get(MODEL, 1)) == "rejected"
    assert releases.get(MODEL, 1).approvals[0].answer.comment == "too slow"


def test_after_a_yes_everything_goes_on(
    releases: ReleaseStore, approval: ReleaseApprovalOperator, asked: list[dict[str, Any]]
) -> None:
    ask(approval, **ASKED)
    approval.execute_complete(context(approval), event=answer("Approve"))
    (kept,) = releases.get(MODEL, 1).approvals
    assert (kept.answer.approved, kept.answer.by, kept.run) == (True, "ann", RUN)


def test_the_answer_goes_to_the_release_that_was_asked_about_whatever_tasks_hand_on_since(
    releases: ReleaseStore, approval: ReleaseApprovalOperator, asked: list[dict[str, Any]]
) -> None:
    Deployment(Settings()).release("deux", model=MODEL)
    ask(approval, **ASKED)
    approval.inputs = {**approval.inputs, "release": {"model": MODEL, "number": 2}}
    approval.execute_complete(context(approval), event=answer("Approve"))
    assert [len(release.approvals) for release in releases.every()] == [1, 0]


def test_an_answer_to_a_question_of_before_it_was_cleared_decides_nothing(
    releases: ReleaseStore, approval: ReleaseApprovalOperator, asked: list[dict[str, Any]]
) -> None:
    ask(approval, **ASKED)
    with pytest.raises(UserError, match="no release has a record of this question"):
        approval.execute_complete(context(approval, ti="2"), event=answer("Approve"))


def test_no_answer_in_time_is_a_no_of_nobody(
    releases: ReleaseStore, approval: ReleaseApprovalOperator, asked: list[dict[str, Any]]
) -> None:
    ask(approval, **ASKED)
    with pytest.raises(GateFailure, match="nobody answered in time"):
        approval.execute_complete(context(approval), event=answer("Reject", user=None))
    assert "nobody answered in time" in releases.get(MODEL, 1).approvals[0].answer.line


def test_an_approval_by_default_is_none(
    releases: ReleaseStore, approval: ReleaseApprovalOperator, asked: list[dict[str, Any]]
) -> None:
    ask(approval, **ASKED)
    with pytest.raises(UserError, match="nobody is not among the approvers"):
        approval.execute_complete(context(approval), event=answer("Approve", user=None))


def test_an_answer_without_a_choice_is_refused(
    releases: ReleaseStore, approval: ReleaseApprovalOperator, asked: list[dict[str, Any]]
) -> None:
    ask(approval, **ASKED)
    with pytest.raises(UserError, match="the answer chooses nothing"):
        approval.execute_complete(context(approval), event={**answer("Approve"), "chosen_options": []})
    assert releases.get(MODEL, 1).approvals[0].answer is None


def test_a_rollback_asks_nobody_where_the_deployment_does_not(
    releases: ReleaseStore, rollback: ReleaseApprovalOperator
) -> None:
    with pytest.raises(AirflowSkipException):
        rollback.execute(context(rollback, to="1", model=MODEL))


def test_a_rollback_asks_the_deployments_approvers(
    releases: ReleaseStore,
    rollback: ReleaseApprovalOperator,
    asked: list[dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HF2TRITON_APPROVERS", "admin")
    settings.cache_clear()
    waiting = ask(rollback, to="1", model=MODEL)
    assert waiting.timeout == timedelta(hours=24)
    (question,) = asked
    assert question["subject"] == f"Release 1 of {MODEL}: make it live as model?"
    assert "It is a rollback. Live now: nothing." in question["body"]
    assert question["assigned_users"] == [{"id": "admin", "name": "admin"}]
    with pytest.raises(GateFailure, match="is rejected by admin"):
        rollback.execute_complete(context(rollback), event=answer("Reject", user="admin"))


@pytest.mark.parametrize("by", ["ann", None])
def test_who_triggered_the_run_is_known(
    releases: ReleaseStore,
    approval: ReleaseApprovalOperator,
    asked: list[dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
    by: str | None,
) -> None:
    monkeypatch.setenv("HF2TRITON_FOUR_EYES", "1")
    settings.cache_clear()
    ask(approval, **ASKED, by=by)
    if by is None:
        approval.execute_complete(context(approval, by=by), event=answer("Approve"))
    else:
        with pytest.raises(UserError, match="ann has triggered this run"):
            approval.execute_complete(context(approval, by=by), event=answer("Approve"))


@pytest.mark.parametrize(
    ("variables", "users"),
    [
        ({}, {"admin"}),
        ({"SIMPLE_AUTH_MANAGER_USERS": "ann:op,bob:viewer,cat:ADMIN,dan:user"}, {"ann", "cat", "dan"}),
        ({"SIMPLE_AUTH_MANAGER_ALL_ADMINS": "true"}, {"Anonymous"}),
        ({"AUTH_MANAGER": "airflow.providers.fab.auth_manager.fab_auth_manager.FabAuthManager"}, None),
    ],
    ids=["default", "roles", "all admins", "another auth manager"],
)
def test_users_who_may_answer_come_from_airflows_configuration(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], users: set[str] | None
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(f"AIRFLOW__CORE__{name}", value)
    assert find_users() == users
