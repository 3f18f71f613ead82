"""Connections that ask nothing: a worker that leaves waits for a request, and not for silence.

Nor for the rest of a request that does not come, when new clients wait for its end.

Pure: time is an argument.
"""

from collections.abc import Hashable, Iterable
from typing import Generic, TypeVar

SILENCE_S = 0.25
"""How long a connection may ask nothing before it is closed: a request may be on its way.

And how long nothing may come of a request's body when new clients wait for the worker's end. Longer
than a segment that was lost takes to come again: 0.2 s, TCP_RTO_MIN of Linux.
"""

T = TypeVar("T", bound=Hashable)


class Silence(Generic[T]):
    """Since when each of some connections has asked nothing."""

    def __init__(self) -> None:
        self._since: dict[T, tuple[int, float]] = {}

    def look(self, silent: Iterable[tuple[T, int]], now: float) -> list[T]:
        """Return which connections have asked nothing for so long.

        `silent` are all that ask nothing now, each with the bytes that have ever come from it: one
        from which more has come is not as long silent. `now` is in seconds, of any clock.
        """
        before, self._since = self._since, {}
        found = []
        for one, come in silent:
            was = before.get(one)
            if was is None or was[0] != come:
                was = come, now
            self._since[one] = was
            if now - was[1] >= SILENCE_S:
                found.append(one)
        return found
