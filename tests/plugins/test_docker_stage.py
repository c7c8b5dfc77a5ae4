"""What Airflow sees of the docker stage operator; tests/e2e/test_docker_survival.py sees the rest."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from airflow.providers.docker.operators.docker import DockerOperator
from airflow.sdk import DAG, ResumableJobMixin
from airflow.serialization.serialized_objects import DagSerialization

from hf2triton.operators.docker_stage import DockerStageOperator
from hf2triton.retries import retry_policy
from include.errors import HostError, TransientError
from include.host.docker.engine import EngineAway
from include.settings import settings
from include.tasks import calibrate_awq
from tests.support.engine import client_or_skip
from tests.support.registry import running

pytestmark = pytest.mark.docker

INPUTS = {"checked": {"request": {}}}


@pytest.fixture
def operator() -> DockerStageOperator:
    return DockerStageOperator(task_id="calibrate_awq", job=calibrate_awq.job, inputs=INPUTS)


def test_it_is_built_like_the_stage_operator_and_serialises() -> None:
    with DAG("containers", schedule=None, start_date=datetime(2026, 1, 1, tzinfo=UTC)) as dag:
        DockerStageOperator(task_id="calibrate_awq", job=calibrate_awq.job, inputs=INPUTS, queue="gpu")
    task = DagSerialization.from_dict(DagSerialization.to_dict(dag)).get_task("calibrate_awq")
    assert (task.queue, tuple(task.template_fields)) == ("gpu", ("inputs",))
    assert task.inputs == INPUTS


def test_containers_are_found_by_labels_not_by_what_airflow_keeps_of_a_cleared_task(
    operator: DockerStageOperator,
) -> None:
    assert isinstance(operator, DockerOperator)
    assert not isinstance(operator, ResumableJobMixin)


@pytest.mark.parametrize("name", ["docker_url", "docker_conn_id", "tls_ca_cert", "timeout"])
def test_the_connection_to_the_engine_is_airflows(name: str) -> None:
    value = 5 if name == "timeout" else "tcp://engine:2375"
    given: dict[str, Any] = {name: value}
    made = DockerStageOperator(task_id="calibrate_awq", job=calibrate_awq.job, **given)
    assert getattr(made, name) == value


def test_killing_a_task_that_holds_nothing_is_no_error(operator: DockerStageOperator) -> None:
    operator.on_kill()


def test_an_engine_that_is_away_is_retried_a_host_without_one_is_not() -> None:
    away, none = EngineAway("away"), HostError("none")
    actions = [retry_policy().evaluate(error, 1, 3).action.name for error in (away, TransientError("x"), none)]
    assert actions == ["RETRY", "RETRY", "FAIL"]


def test_an_image_is_pulled_with_the_deployment_s_login(
    operator: DockerStageOperator, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    with running(client_or_skip(), tmp_path) as registry:
        image = registry.push("nvcr/tritonserver")
        monkeypatch.setenv("AIRFLOW_CONN_IMAGES", registry.connection())
        monkeypatch.setenv("HF2TRITON_DOCKER_CONNECTION", "images")
        settings.cache_clear()
        try:
            operator.containers().ensure_image(image)
        finally:
            settings.cache_clear()
        assert registry.has(image)
