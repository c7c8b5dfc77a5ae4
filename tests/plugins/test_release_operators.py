"""The approval asks, waits, and acts on the answer."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.providers.standard.operators import hitl
from airflow.sdk import DAG, BaseOperator
from airflow.sdk.exceptions import AirflowSkipException, DownstreamTasksSkipped, TaskAwaitingInput

from hf2triton.operators import ReleaseApprovalOperator
from include import report
from include.releases.records import ReleaseStore
from include.settings import settings
from include.tasks import approve_release
from include.triton.servers import Ports, ServerPlan, ServerRecord
from tests.support.report import report as example

RUN = "manual__1"


@pytest.fixture
def releases(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ReleaseStore]:
    """A store with one release that has passed its gates."""
    monkeypatch.setenv("HF2TRITON_ARTIFACTS", str(tmp_path))
    settings.cache_clear()
    made = ReleaseStore(tmp_path / "releases")
    release = made.open("org--model", target="openvino", repository="r", chain={}, request={})
    report.write(made.path(release), example())
    made.judge(release, "accepted")
    yield made
    settings.cache_clear()


@pytest.fixture
def approval(tmp_path: Path) -> ReleaseApprovalOperator:
    ports = Ports(http=8123, grpc=1, metrics=2)
    plan = ServerPlan(target="openvino", repository=tmp_path, argv=("triton",), env={}, ports=ports)
    candidate = ServerRecord(plan=plan, log=tmp_path / "log").model_dump(mode="json")
    with DAG("release_awq_engine", schedule=None):
        inputs = {"release": {"model": "org--model", "number": 1}, "candidate": candidate}
        operator = ReleaseApprovalOperator(
            task_id="approve_release", question=approve_release.question, reject=approve_release.reject, inputs=inputs
        )
        teardown = BaseOperator(task_id="stop_candidate").as_teardown()
        operator >> BaseOperator(task_id="promote_release") >> teardown
        operator >> teardown
    return operator


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What reaches Airflow's database of questions."""
    questions: list[dict[str, Any]] = []
    monkeypatch.setattr(hitl, "upsert_hitl_detail", lambda **question: questions.append(question))
    return questions


def context(operator: ReleaseApprovalOperator, **params: Any) -> Any:
    ti = SimpleNamespace(id="1", dag_id=operator.dag_id, map_index=-1, xcom_push=lambda **_: None)
    return {"ti": ti, "task_instance": ti, "task": operator, "run_id": RUN, "params": params}


def answer(option: str) -> dict[str, Any]:
    user = {"id": "ann", "name": "ann"}
    return {
        "chosen_options": [option],
        "params_input": {},
        "responded_at": datetime.now(UTC),
        "responded_by_user": user,
    }


def test_it_skips_itself_where_the_gates_decide(releases: ReleaseStore, approval: ReleaseApprovalOperator) -> None:
    with pytest.raises(AirflowSkipException):
        approval.execute(context(approval))


def test_it_asks_who_may_answer_and_waits_as_long_as_it_may(
    releases: ReleaseStore, approval: ReleaseApprovalOperator, asked: list[dict[str, Any]]
) -> None:
    with pytest.raises(TaskAwaitingInput) as waiting:
        approval.execute(context(approval, require_approval=True, approvers=["ann"], approval_timeout_h=2))
    assert waiting.value.timeout == timedelta(hours=2)
    (question,) = asked
    assert question["assigned_users"] == [{"id": "ann", "name": "ann"}]
    assert question["defaults"] == ["Reject"]
    assert f"[Release report](/hf2triton/runs/release_awq_engine/{RUN})" in question["body"]


def test_after_a_no_the_release_is_rejected_and_only_the_teardown_runs(
    releases: ReleaseStore, approval: ReleaseApprovalOperator
) -> None:
    with pytest.raises(DownstreamTasksSkipped) as skipped:
        approval.execute_complete(context(approval), answer("Reject"))
    assert skipped.value.tasks == ["promote_release"]
    assert releases.state(releases.get("org--model", 1)) == "rejected"


def test_after_a_yes_everything_goes_on(releases: ReleaseStore, approval: ReleaseApprovalOperator) -> None:
    approval.execute_complete(context(approval), answer("Approve"))
    assert releases.state(releases.get("org--model", 1)) == "candidate"
