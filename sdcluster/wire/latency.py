"""How long a worker takes to answer, as one number: a peak EWMA, which both sides reckon with.

As in Finagle and Linkerd: what is slower than the average replaces it at once, what is faster
counts for as much as time has passed since the last answer. Without answers it decays to nothing,
so that a worker that was slow is tried again.
"""

import math

TAU_NS = 10_000_000_000
"""In this time what was measured comes to count for 1/e."""
MAX_NS = 60_000_000_000
"""More than this is the same: very slow."""


def _remainder(elapsed_ns: int) -> float:
    """Return how much of the average counts after some time."""
    return math.exp(-elapsed_ns / TAU_NS) if 0 < elapsed_ns < 100 * TAU_NS else elapsed_ns <= 0


def observe(average_ns: int, at_ns: int, *, sample_ns: int, now_ns: int) -> int:
    """Return the average with one answer more; it was `average_ns` at `at_ns`."""
    if sample_ns >= average_ns:
        return min(sample_ns, MAX_NS)
    remainder = _remainder(now_ns - at_ns)
    return int(average_ns * remainder + sample_ns * (1 - remainder))


def expected(average_ns: int, at_ns: int, *, oldest_ns: int, now_ns: int) -> int:
    """Return how long an answer is expected to take; 0 when nothing is known.

    `oldest_ns` is when the oldest request began whose answer has not; 0 when there is none. All
    numbers may be nonsense.
    """
    expected_ns = int(min(average_ns, MAX_NS) * _remainder(now_ns - at_ns))
    waiting_ns = now_ns - oldest_ns if oldest_ns else 0
    return max(expected_ns, min(waiting_ns, MAX_NS))
