"""Waits for conditions, with a deadline: no test sleeps for as long as something should take."""

import contextlib
import signal
import time
from collections.abc import Callable, Iterator
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


@contextlib.contextmanager
def at_once(timeout_s: float = 5.0) -> Iterator[None]:
    """Fail when the body still waits for something after `timeout_s`, which is taken from it."""
    late = False

    def end(*_: object) -> None:
        nonlocal late
        late = True
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, end)
    signal.setitimer(signal.ITIMER_REAL, timeout_s)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        # Also when the body has caught the exception.
        assert not late, f"it waited for more than {timeout_s:g} s"
