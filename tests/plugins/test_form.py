"""The form refuses what the request refuses."""

from __future__ import annotations

import pytest
from airflow.sdk.exceptions import ParamValidationError
from airflow.serialization.definitions.param import SerializedParam

from hf2triton.form import OPEN_SECTION, request_params
from include.requests.operations import RollbackRequest
from include.requests.release import Form, ReleaseRequest


def test_defaults_are_the_requests_defaults() -> None:
    params = {name: param.resolve() for name, param in request_params().items()}
    assert ReleaseRequest.parse(params) == ReleaseRequest()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("model", "a;b"),
        ("model", "https://huggingface.co/org/x"),
        ("model", "org/../x"),
        ("revision", "--force"),
        ("awq_group_size", 100),
        ("calib_size", 0),
        ("tp_size", 1.5),
        ("kv_cache_memory_fraction", 2),
        ("target", "sglang"),
        ("streaming", "yes"),
        ("test_prompts", [""]),
        ("test_prompts", []),
        ("speed_concurrencies", [0]),
        ("speed_concurrencies", [1.5]),
        ("speed_concurrencies", ["four"]),
    ],
)
def test_a_bad_value_is_refused_at_the_trigger(field: str, value: object) -> None:
    with pytest.raises(ParamValidationError):
        request_params()[field].resolve(value)


@pytest.mark.parametrize(
    ("field", "typed"),
    [
        ("test_prompts", ["one", "two", ""]),
        ("speed_concurrencies", [1, 4, "8", ""]),
        ("approvers", None),
        ("aliases", ["one", ""]),
        ("aliases", None),
        ("served_name", None),
    ],
)
def test_what_the_form_makes_of_lines_is_taken(field: str, typed: object) -> None:
    assert ReleaseRequest.parse({field: request_params()[field].resolve(typed)})


def test_descriptions_say_the_limits_and_have_no_code_spans() -> None:
    texts = {name: param.schema["description_md"] for name, param in request_params().items()}
    assert texts["max_batch_size"].endswith("Limits: 1 to 256.")
    assert r"**tensorrt\_llm**" in texts["target"]
    assert not [name for name, text in texts.items() if "`" in text]


def test_lists_are_typed_as_lines_of_text() -> None:
    """Airflow's form has an editor for JSON where the items of a list have another type."""
    lists = {name: param.schema for name, param in request_params().items() if "items" in param.schema}
    assert set(lists) == {"test_prompts", "approvers", "speed_concurrencies", "aliases"}
    assert {schema["items"].get("type", "string") for schema in lists.values()} == {"string"}


@pytest.mark.parametrize("request_model", [ReleaseRequest, RollbackRequest])
def test_the_form_offers_the_swaps_of_today_and_a_run_may_bring_a_former_one(request_model: type[Form]) -> None:
    param = request_params(request_model)["swap"]
    assert param.schema["enum"] == ["blue_green", "recreate"]
    for value in ("blue_green", "recreate", "beside", "stop_first"):
        assert param.resolve(value) == value
        assert SerializedParam(value, **param.schema).resolve(raises=True) == value  # what the REST API asks
    with pytest.raises(ParamValidationError):
        param.resolve("both")


@pytest.mark.parametrize("request_", [ReleaseRequest, RollbackRequest])
def test_the_first_section_is_the_one_that_the_form_opens(request_: type[Form]) -> None:
    sections = list(dict.fromkeys(param.schema["section"] for param in request_params(request_).values()))
    assert sections[0] == OPEN_SECTION
    assert request_.model_json_schema()["properties"][next(iter(request_.model_fields))]["section"] not in sections


@pytest.mark.parametrize(("target", "size", "length"), [("openvino", 32, 128), ("vllm", 128, 512)])
def test_what_is_left_empty_follows_the_target(target: str, size: int, length: int) -> None:
    left = {name: request_params()[name].resolve(None) for name in ("calib_size", "calib_seq_len")}
    for given in ({}, left):
        request = ReleaseRequest.parse({"target": target, **given})
        assert (request.calib_size, request.calib_seq_len) == (size, length)
    assert ReleaseRequest.parse({"target": target, "calib_size": 7}).calib_size == 7
