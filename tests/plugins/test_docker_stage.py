"""What Airflow sees of the docker stage operator; tests/e2e/test_docker_survival.py sees the rest."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.sdk import DAG, ResumableJobMixin
from airflow.serialization.serialized_objects import DagSerialization

from hf2triton.operators.docker_stage import ACTIVE, GONE, SUCCEEDED, DockerStageOperator
from hf2triton.retries import retry_policy
from include.errors import HostError, TransientError
from include.host.docker.engine import EngineAway
from include.settings import settings
from tests.support.engine import client_or_skip
from tests.support.registry import running

pytestmark = pytest.mark.docker

INPUTS = {"checked": {"request": {}}}


@pytest.fixture
def operator() -> DockerStageOperator:
    return DockerStageOperator(task_id="calibrate_awq", inputs=INPUTS)


def test_it_is_built_like_the_stage_operator_and_serialises() -> None:
    with DAG("containers", schedule=None, start_date=datetime(2026, 1, 1, tzinfo=UTC)) as dag:
        DockerStageOperator(task_id="calibrate_awq", inputs=INPUTS, queue="gpu")
    task = DagSerialization.from_dict(DagSerialization.to_dict(dag)).get_task("calibrate_awq")
    assert (task.queue, tuple(task.template_fields)) == ("gpu", ("inputs",))
    assert task.inputs == INPUTS


def test_airflows_mixin_comes_before_its_operator() -> None:
    order = [kind.__name__ for kind in DockerStageOperator.__mro__]
    assert order.index(ResumableJobMixin.__name__) < order.index("DockerOperator")


@pytest.mark.parametrize(
    ("found", "status"),
    [
        (None, GONE),
        (SimpleNamespace(id="other", active=True), GONE),
        (SimpleNamespace(id="ours", active=True), ACTIVE),
        (SimpleNamespace(id="ours", active=False), SUCCEEDED),
    ],
    ids=["nothing found", "works on another artifact", "runs", "has ended well"],
)
def test_a_stored_id_counts_only_for_the_container_that_was_found(
    operator: DockerStageOperator, found: Any, status: str
) -> None:
    attempt: Any = SimpleNamespace(container=SimpleNamespace(found=found))
    operator._attempt = attempt
    context: Any = {}
    assert operator.get_job_status("ours", context) == status
    assert operator.is_job_active(status) is (status == ACTIVE)
    assert operator.is_job_succeeded(status) is (status == SUCCEEDED)


def test_killing_a_task_that_holds_nothing_is_no_error(operator: DockerStageOperator) -> None:
    operator.on_kill()


def test_an_engine_that_is_away_is_retried_a_host_without_one_is_not() -> None:
    away, none = EngineAway("away"), HostError("none")
    actions = [retry_policy().evaluate(error, 1, 3).action.name for error in (away, TransientError("x"), none)]
    assert actions == ["RETRY", "RETRY", "FAIL"]


def test_an_image_is_pulled_with_the_deployment_s_login(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    with running(client_or_skip(), tmp_path) as registry:
        image = registry.push("nvcr/tritonserver")
        monkeypatch.setenv("AIRFLOW_CONN_IMAGES", registry.connection())
        monkeypatch.setenv("HF2TRITON_DOCKER_CONNECTION", "images")
        settings.cache_clear()
        try:
            DockerStageOperator(task_id="calibrate_awq")._runner().ensure_image(image)
        finally:
            settings.cache_clear()
        assert registry.has(image)
