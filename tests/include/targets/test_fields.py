"""No target ignores a field in silence."""

from __future__ import annotations

from typing import get_args

import pytest

from include.errors import UserError
from include.requests.release import ReleaseRequest
from include.targets.fields import SECTIONS, TARGETS, check_fields

KNOWN = get_args(ReleaseRequest.model_fields["target"].annotation)
OTHER_THAN_DEFAULT = {"precision": "fast", "tp_size": 2}
IGNORED = [(field, target) for field, targets in TARGETS.items() for target in KNOWN if target not in targets]


def test_each_field_of_the_sections_has_its_targets() -> None:
    assert set(TARGETS) == set(ReleaseRequest().section(*SECTIONS))
    assert {target for targets in TARGETS.values() for target in targets} == set(KNOWN)


@pytest.mark.parametrize(("field", "target"), IGNORED)
def test_a_field_that_the_target_would_ignore_is_refused(field: str, target: str) -> None:
    check_fields(ReleaseRequest(target=target))
    value = OTHER_THAN_DEFAULT[field]
    with pytest.raises(UserError, match=rf"{field} is {value}, which has no effect with target {target}") as refusal:
        check_fields(ReleaseRequest.parse({"target": target, field: value}))
    assert refusal.value.where == f"field {field}"
    for other in TARGETS[field]:
        assert other in refusal.value.fix
        check_fields(ReleaseRequest.parse({"target": other, field: value}))


def test_a_field_that_no_target_is_declared_for_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(TARGETS, "dtype")
    with pytest.raises(UserError, match="leave dtype at float16$"):
        check_fields(ReleaseRequest(dtype="bfloat16"))
