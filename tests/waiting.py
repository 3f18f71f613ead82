"""Waits for conditions, with a deadline: no test sleeps for as long as something should take."""

import time
from collections.abc import Callable
from typing import TypeVar

TIMEOUT_S = 20.0

T = TypeVar("T")


def wait_until(condition: Callable[[], T | None], what: str, timeout_s: float = TIMEOUT_S) -> T:
    """Return the first true value of `condition`; fail after `timeout_s`."""
    deadline = time.monotonic() + timeout_s
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {timeout_s:g} s: {what}")
        time.sleep(0.01)
