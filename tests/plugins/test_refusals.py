"""The API server's answer to a bad value says what is wrong, and not how the schema says it."""

from __future__ import annotations

import pytest
from airflow.exceptions import ParamValidationError
from airflow.serialization.definitions.param import SerializedParam, SerializedParamsDict
from fastapi import FastAPI, HTTPException
from fastapi.responses import JSONResponse, StreamingResponse
from fastapi.testclient import TestClient

from hf2triton.form import request_params
from hf2triton.refusals import ShortRefusals

BAD = {
    "model": ("no model;", "'no model;' is not of the form that the field's description tells"),
    "awq_group_size": (65, "65 is not one of [128, 64, 32, 16]"),
    "calib_size": (0, "0 is less than the minimum of 1"),
    "streaming": ("yes", "'yes' is not of type 'boolean'"),
}


def refusal(name: str, value: object) -> str:
    """Airflow's own message."""
    params = {key: SerializedParam(param.value, **param.schema) for key, param in request_params().items()}
    with pytest.raises(ParamValidationError) as refused:
        SerializedParamsDict({**params, name: SerializedParam(value, **params[name].schema)}).validate()
    return str(refused.value)


@pytest.fixture
def client() -> TestClient:
    app = FastAPI()
    app.add_middleware(ShortRefusals)

    @app.post("/api/v2/dags/d/dagRuns")
    def trigger(name: str = "", status: int = 400) -> JSONResponse:
        raise HTTPException(status, refusal(name, BAD[name][0]) if name else "the DAG has import errors")

    @app.post("/other")
    @app.post("/api/v2/dags/{dag}/dagRuns/list")
    def other() -> StreamingResponse:
        return StreamingResponse(iter(["Failed ", "validating"]), status_code=400)

    @app.post("/api/v2/dags/text/dagRuns")
    def text() -> StreamingResponse:
        return StreamingResponse(iter(["no ", "JSON"]), status_code=400)

    return TestClient(app)


@pytest.mark.parametrize("name", BAD)
def test_a_refusal_names_the_field_and_has_no_schema(client: TestClient, name: str) -> None:
    assert "Failed validating" in refusal(name, BAD[name][0])
    answer = client.post("/api/v2/dags/d/dagRuns", params={"name": name})
    assert answer.status_code == 400
    assert answer.json() == {"detail": f"Invalid input for param {name}: {BAD[name][1]}"}


@pytest.mark.parametrize("status", [400, 409])
def test_any_other_refusal_stays_as_it_is(client: TestClient, status: int) -> None:
    answer = client.post("/api/v2/dags/d/dagRuns", params={"status": status})
    assert (answer.status_code, answer.json()) == (status, {"detail": "the DAG has import errors"})


def test_other_answers_pass_through(client: TestClient) -> None:
    assert client.post("/other").text == "Failed validating"
    assert client.post("/api/v2/dags/text/dagRuns").text == "no JSON"
