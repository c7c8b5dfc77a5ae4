"""The form refuses what the request refuses."""

from __future__ import annotations

import pytest
from airflow.sdk.exceptions import ParamValidationError

from hf2triton.form import request_params
from include.request import ReleaseRequest


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
        ("target", "vllm"),
        ("streaming", "yes"),
        ("test_prompts", [""]),
    ],
)
def test_a_bad_value_is_refused_at_the_trigger(field: str, value: object) -> None:
    with pytest.raises(ParamValidationError):
        request_params()[field].resolve(value)
