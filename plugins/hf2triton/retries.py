"""The retry rules for failed tasks."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from airflow.sdk import ExceptionRetryPolicy, RetryAction, RetryRule

from include.errors import TransientError

RETRIES = 3
RETRY_DELAY = timedelta(seconds=20)


def retry_policy() -> ExceptionRetryPolicy:
    """The retry policy: network errors and lost workers are retried; any other failure is final."""
    return ExceptionRetryPolicy(
        rules=[RetryRule(exception=TransientError, action=RetryAction.RETRY)], default=RetryAction.FAIL
    )


def default_args() -> dict[str, Any]:
    """The arguments that all tasks of all DAGs share."""
    return {
        "retries": RETRIES,
        "retry_delay": RETRY_DELAY,
        "retry_exponential_backoff": True,
        "retry_policy": retry_policy(),
    }
