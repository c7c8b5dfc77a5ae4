"""An image from a private registry with the login of an Airflow Connection, which shows up nowhere."""

from __future__ import annotations

import base64
from collections.abc import Iterator

import pytest

from include.demo import run
from include.demo.__main__ import DEMO
from tests.e2e.conftest import MODEL, Deployment
from tests.e2e.rest import AnyPath
from tests.support.engine import client_or_skip
from tests.support.registry import PASSWORD, USER, Registry, running
from tests.support.wait import wait_for

pytestmark = pytest.mark.docker

CONNECTION = "private_registry"
WRONG = "wr0ng-" + PASSWORD[::-1]
CHECK = "check_request"
WAIT_S = 120


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    with running(client_or_skip(), tmp_path_factory.mktemp("registry")) as registry:
        yield registry


@pytest.fixture(scope="module")
def image(registry: Registry) -> str:
    """The deployment's image for target tensorrt_llm: named by its digest, and with nothing of use in it."""
    return registry.push("nvcr/nvidia/tritonserver")


@pytest.fixture(scope="module")
def more_settings(image: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return {
        "HF2TRITON_RUNNER": "docker",
        "HF2TRITON_TRTLLM_IMAGE": image,
        "HF2TRITON_DOCKER_CONNECTION": CONNECTION,
        "DOCKER_CONFIG": str(tmp_path_factory.mktemp("no-docker-login")),
    }


@pytest.fixture(scope="module")
def api(deployment: Deployment, registry: Registry) -> AnyPath:
    deployment.start_airflow()
    api = deployment.api()
    made = {"connection_id": CONNECTION, "conn_type": "docker", "host": registry.host, "login": USER, "password": WRONG}
    api._call("POST", "/api/v2/connections", made)
    return api


def why_refused(api: AnyPath) -> str:
    """The error of ``check_request`` in a run for target tensorrt_llm."""
    run_id = api.trigger(run.DAG, {**DEMO, "model": str(MODEL), "target": "tensorrt_llm"})
    wait_for(lambda: api.run_state(run.DAG, run_id) in {"success", "failed"}, within_s=WAIT_S, every_s=0.5)
    state = api.tasks(run.DAG, run_id)[CHECK]
    assert (state.state, state.try_number) == ("failed", 1)
    return api.error(run.DAG, run_id, state)


def test_a_wrong_password_fails_the_request_and_names_the_connection(
    api: AnyPath, image: str, registry: Registry
) -> None:
    error = why_refused(api)
    assert "HostError" in error
    assert f"correct login and password of Airflow Connection {CONNECTION}" in error
    assert not registry.has(image)


def test_the_right_one_gets_the_image(api: AnyPath, image: str, registry: Registry) -> None:
    api.patch(
        f"/api/v2/connections/{CONNECTION}?update_mask=password",
        {
            "connection_id": CONNECTION,
            "conn_type": "docker",
            "password": PASSWORD,
        },
    )
    error = why_refused(api)
    assert "python3" in error, "the next step is to look into the image, and this one is empty"
    assert registry.has(image)


def test_the_password_stands_in_no_log_record_or_page(api: AnyPath, deployment: Deployment) -> None:
    """All that the deployment has written: task logs, the store, Airflow's own logs and its database."""
    files = [path for path in deployment.settings.artifacts.parent.rglob("*") if path.is_file()]
    assert any(b"with the login of Connection" in path.read_bytes() for path in files), "the tasks' logs are among them"
    for secret in (PASSWORD, WRONG):
        for form in (secret, base64.b64encode(f"{USER}:{secret}".encode()).decode()):
            assert [str(path) for path in files if form.encode() in path.read_bytes()] == []
