"""Which worker gets the next connection. Pure, and on the hot path: a few integer comparisons.

A worker is a candidate while it has taken nearly all it was given (`outstanding` below the cap)
and has fewer open connections than allowed. So a worker that is busy, stuck or stopped gets a few
connections at the most, and those come back if it dies.
"""

from collections.abc import Sequence
from typing import Protocol, TypeVar

MAX_OUTSTANDING = 8
"""Connections given to a worker and not yet taken by it."""


class Candidate(Protocol):
    """What a worker's load looks like from outside."""

    def outstanding(self) -> int:
        """Return how many connections it was given and has not taken."""

    def connections(self) -> int:
        """Return how many connections it has open."""


C = TypeVar("C", bound=Candidate)


def fewest_outstanding(candidates: Sequence[C]) -> C:
    """Return the worker that has the fewest connections to take, however full it is."""
    return min(candidates, key=lambda candidate: candidate.outstanding())


class RoundRobin:
    """Each worker in turn, full ones passed over."""

    __slots__ = ("_max_connections", "_next", "_picked")

    def __init__(self, *, max_connections: int) -> None:
        self._next = 0
        self._picked = 0
        self._max_connections = max_connections

    def pick(self, candidates: Sequence[C]) -> C | None:
        """Return the next worker with room, or None when all are full.

        It stays the next one until `advance`: there may be no connection to give after all.
        """
        count = len(candidates)
        for step in range(count):
            index = (self._next + step) % count
            candidate = candidates[index]
            outstanding = candidate.outstanding()
            if outstanding >= MAX_OUTSTANDING:
                continue
            limit = self._max_connections
            if limit and outstanding + candidate.connections() >= limit:
                continue
            self._picked = index
            return candidate
        return None

    def advance(self) -> None:
        """Pass the turn on: the worker that was picked last got its connection."""
        self._next = self._picked + 1
