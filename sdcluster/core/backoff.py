"""How long a slot waits before it is filled again.

The first crash is answered at once. Each further one within the window of the one before doubles
the wait, with jitter so that slots that crash together do not come back together; a window without
a crash starts anew. How long the worker had lived does not matter: one that crashes every five
seconds is in a crash loop as much as one that crashes at once.

The slot of a worker that had been given requests waits for a short time only: it is the requests
that kill, and others are to be served.
"""

WINDOW_S = 60.0
FIRST_DELAY_S = 0.25
MAX_DELAY_S = 30.0
"""Well below the window, or the longest wait would end the crash loop that it is for."""
MAX_DELAY_WITH_REQUESTS_S = 0.5
"""The longest wait after a worker that had been given requests."""
JITTER = 0.25


class Backoff:
    """The crashes of one slot."""

    __slots__ = ("_delay_s", "_last")

    def __init__(self) -> None:
        self._last = 0.0
        self._delay_s: float | None = None
        """The next wait, without jitter; None when the next crash is the first."""

    def delay_s(self, now: float, *, jitter: float, had_requests: bool = False) -> float:
        """Count a crash at `now` and return the wait; `jitter` is a random number from 0 to 1.

        `had_requests` tells whether the worker had been given any.
        """
        delay = self._delay_s
        if delay is None or now - self._last >= WINDOW_S:
            self._last, self._delay_s = now, FIRST_DELAY_S
            return 0.0
        self._last, self._delay_s = now, min(MAX_DELAY_S, 2.0 * delay)
        if had_requests:
            delay = min(delay, MAX_DELAY_WITH_REQUESTS_S)
        return delay * (1.0 - JITTER * jitter)

    def forget(self) -> None:
        """Start anew: other code fills the slot from now on."""
        self._delay_s = None
