"""Waiting for what other processes and threads bring about."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

Found = TypeVar("Found")


def wait_for(look: Callable[[], Found | None], said: str = "", *, within_s: float = 60, every_s: float = 0.02) -> Found:
    """Returns the first true value that ``look`` gives; fails with ``said`` when ``within_s`` is over."""
    deadline = time.monotonic() + within_s
    while not (found := look()):
        assert time.monotonic() < deadline, f"waited {within_s} s for {said or look}"
        time.sleep(every_s)
    return found
