"""Has workers hand connections to each other until all have their share. `core.rebalance` decides.

Each look is at a state that has come to rest: not while an order is carried out, nor at the next
look after that, as connections may be on their way between two workers and counted by none.
"""

from collections.abc import Sequence

from sdcluster.core.balance import Rules
from sdcluster.core.rebalance import Load, Rebalance
from sdcluster.master.connections.channels import WorkerChannel
from sdcluster.master.connections.dispatch import Seat
from sdcluster.wire.latency import MAX_NS
from sdcluster.wire.scoreboard import Field

LOOK_S = 0.9
"""A little less than the master's tick."""
STALE_S = 2.5
"""A worker whose event loop has not turned for so long is left out: it would answer nobody."""
MIN_ANSWERS = 10
"""Fewer say nothing about how fast a worker is."""


class Rebalancing:
    """Looks at the workers, and orders the moves."""

    def __init__(self) -> None:
        self._rebalance = Rebalance()
        self._counted: dict[WorkerChannel, tuple[int, int]] = {}
        """What each had answered when its latency was last reckoned."""
        self._next_look = 0.0
        self._is_settling = False

    def look(self, seats: Sequence[Seat], rules: Rules, now: float) -> None:
        """Look, if it is time. `now` is in seconds of CLOCK_MONOTONIC."""
        if now < self._next_look:
            return
        self._next_look = now + LOOK_S
        seats = [seat for seat in seats if self._is_fit(seat, now)]
        was_settling, self._is_settling = self._is_settling, False
        if any(seat.channel.is_moving for seat in seats):
            self._is_settling = True
            return
        if was_settling:
            return
        channels = {seat.slot: seat.channel for seat in seats}
        self._counted = {one: self._counted.get(one, (0, 0)) for one in channels.values()}
        loads = [
            Load(
                slot=seat.slot,
                connections=seat.connections(),
                weight=rules.weight(seat.slot),
                latency_ns=self._latency_ns(seat.channel),
            )
            for seat in seats
        ]
        for move in self._rebalance.moves(loads, max_connections=rules.max_connections):
            channels[move.origin].move(move.count, move.target)
            self._is_settling = True

    def _is_fit(self, seat: Seat, now: float) -> bool:
        """Tell whether a worker takes what it is given, and turns its loop."""
        beat = seat.channel.board[Field.HEARTBEAT_NS] / 1e9
        return now - beat < STALE_S and not seat.outstanding()

    def _latency_ns(self, channel: WorkerChannel) -> int:
        """Return how long the answers since it was last reckoned have taken; 0 for too few."""
        answers, taken_ns = channel.answers()
        before, taken_before_ns = self._counted[channel]
        if 0 <= answers - before < MIN_ANSWERS:
            return 0
        self._counted[channel] = (answers, taken_ns)
        return min(max(0, (taken_ns - taken_before_ns) // max(1, answers - before)), MAX_NS)
