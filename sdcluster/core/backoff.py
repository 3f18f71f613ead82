"""How long a slot waits before it is filled again.

The first crash in the window is answered at once, each further one after twice the wait of the
one before, with jitter so that slots that crash together do not come back together. Every exit
counts, however long the worker had lived: a worker that crashes every five seconds is in a crash
loop as much as one that crashes at once.
"""

from collections import deque

WINDOW_S = 60.0
FIRST_DELAY_S = 0.25
MAX_DELAY_S = 30.0
JITTER = 0.25


class Backoff:
    """The crashes of one slot within a sliding window."""

    __slots__ = ("_crashes",)

    def __init__(self) -> None:
        self._crashes: deque[float] = deque(maxlen=32)

    def delay_s(self, now: float, *, jitter: float) -> float:
        """Count a crash at `now` and return the wait; `jitter` is a random number from 0 to 1."""
        while self._crashes and self._crashes[0] <= now - WINDOW_S:
            self._crashes.popleft()
        before = len(self._crashes)
        self._crashes.append(now)
        if before == 0:
            return 0.0
        delay = min(MAX_DELAY_S, FIRST_DELAY_S * 2.0 ** (before - 1))
        return delay * (1.0 - JITTER * jitter)

    def forget(self) -> None:
        """Start anew: other code fills the slot from now on."""
        self._crashes.clear()
