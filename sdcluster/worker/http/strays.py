"""Requests that were not served by the worker that they are for: counted, and told now and then."""

import asyncio
import logging
import time
from collections import Counter

from sdcluster.wire.scoreboard import Field, Scoreboard
from sdcluster.worker.moving.refusals import Refusal

INTERVAL_S = 10.0
"""There is at most one line of each kind in so many seconds."""

_REFUSED = {
    Refusal.BUSY: "refused with status 503, as the worker that they are for had no room in time",
    Refusal.TIED: "refused with status 503, as their connection could not be handed over",
    Refusal.TOO_LONG: "refused with status 431, as their head is longer than replay_max_kb",
}
_WRONG = "served by another worker than they are for, as that one could not be reached"

logger = logging.getLogger("sdcluster")


class Strays:
    """Counts them, and logs the first one at once and then how many there were."""

    def __init__(self, board: Scoreboard) -> None:
        self._board = board
        self._untold: Counter[str] = Counter()
        self._told_at: dict[str, float] = {}

    def wrong(self) -> None:
        """Count a request that is served all the same."""
        self._board[Field.WRONG] += 1
        self._count(_WRONG)

    def refused(self, refusal: Refusal) -> None:
        """Count one that is not."""
        self._count(_REFUSED[refusal])

    def _count(self, what: str) -> None:
        self._untold[what] += 1
        if self._untold[what] > 1:
            return  # It is told together with the one before.
        wait_s = self._told_at.get(what, -INTERVAL_S) + INTERVAL_S - time.monotonic()
        if wait_s <= 0:
            self._tell(what)
        else:
            asyncio.get_running_loop().call_later(wait_s, self._tell, what)

    def _tell(self, what: str) -> None:
        self._told_at[what] = time.monotonic()
        count = self._untold.pop(what)
        logger.warning("%d request%s %s", count, " was" if count == 1 else "s were", what)
