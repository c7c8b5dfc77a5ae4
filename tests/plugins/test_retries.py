"""Only what may end well is tried again."""

from __future__ import annotations

import pytest
from airflow.sdk import RetryAction

from hf2triton.retries import retry_policy
from include.errors import GateFailure, HostError, ToolError, TransientError, UserError


@pytest.mark.parametrize(
    ("failure", "action"),
    [
        (TransientError("the Hub is away"), RetryAction.RETRY),
        (UserError("no such model"), RetryAction.FAIL),
        (HostError("disk full"), RetryAction.FAIL),
        (ToolError("exit code 1"), RetryAction.FAIL),
        (GateFailure("empty answers"), RetryAction.FAIL),
        (KeyError("a bug"), RetryAction.FAIL),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_the_class_of_a_failure_decides(failure: Exception, action: RetryAction) -> None:
    assert retry_policy().evaluate(failure, try_number=1, max_tries=3).action is action
