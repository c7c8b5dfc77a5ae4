"""The settings of a comparison become requests of releases."""

from __future__ import annotations

from typing import Any

import pytest

from include.errors import UserError
from include.requests.comparison import CompareRequest
from include.requests.release import ReleaseRequest


def requests(*settings: str, **fields: Any) -> dict[str, ReleaseRequest]:
    return CompareRequest.parse({"settings": list(settings), **fields}).requests()


def test_each_setting_is_the_release_that_has_it() -> None:
    made = requests(
        "awq_group_size=64", "awq_group_size=32  dtype=bfloat16", model="org/name", request={"max_batch_size": 4}
    )
    common = {"model": "org/name", "max_batch_size": 4}
    assert made == {
        "awq_group_size=64": ReleaseRequest(awq_group_size=64, **common),
        "awq_group_size=32 dtype=bfloat16": ReleaseRequest(awq_group_size=32, dtype="bfloat16", **common),
    }


def test_the_form_sends_lines() -> None:
    made = CompareRequest.parse({"settings": "awq_group_size=64\n\nstreaming=false\n"}).requests()
    assert [request.streaming for request in made.values()] == [True, False]
    assert CompareRequest.parse({}).requests()


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        pytest.param(["awq_group_size=64"], "at least 2", id="only one"),
        pytest.param([f"calib_size={n}" for n in range(1, 10)], "at most 8", id="too many"),
        pytest.param(["awq_group_size=64", "awq_group_size=64"], "two settings are the same", id="twice"),
        pytest.param(["awq_group_size=64", "calib_size=32"], "two settings are the same", id="twice, by defaults"),
        pytest.param(["awq_group_size=64", "awq_group_size"], "no field of a setting", id="no value"),
        pytest.param(["awq_group_size=64", "=32"], "no field of a setting", id="no name"),
        pytest.param(["awq_group_size=64", "dtype=float16 dtype=bfloat16"], "no field of a setting", id="two values"),
        pytest.param(["awq_group_size=64", "model=org/other"], "no field of a setting", id="another model"),
        pytest.param(["awq_group_size=64", "awq_group_size=48"], "'awq_group_size=48'", id="out of its limits"),
        pytest.param(["awq_group_size=64", "awq_groups=32"], "did you mean awq_group_size", id="misspelt"),
        pytest.param(["awq_group_size=64", "calib_size=[[[["], "calib_size", id="no value of its type"),
    ],
)
def test_a_setting_that_no_release_can_have_is_named(settings: list[str], problem: str) -> None:
    with pytest.raises(UserError, match=problem) as failed:
        requests(*settings)
    assert failed.value.fix
