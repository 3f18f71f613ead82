"""Which connections go from which worker to which, so that all have their share. Pure.

A connection that is kept alive stays where it is, while workers come and go: a worker that is new
has none, and one that others' connections went to has too many. The share of each is by its weight;
of a worker that is slow for longer it is less.

It comes to rest: what is done makes the shares exact, and nothing is done about what is near them.
"""

from collections.abc import Sequence
from dataclasses import dataclass

TOLERANCE = 2
TOLERANCE_OF_MEAN = 0.2
"""How far workers may be apart, in connections: the greater of the two."""
SLOW_NS = 10_000_000
"""A worker that answers within this is never slow."""
SLOW_TIMES = 4.0
WELL_TIMES = 2.0
"""A worker is slow that takes so many times as long as the one in the middle, until it takes less
than the second number."""
SLOW_LOOKS = 3
WELL_LOOKS = 15
"""How often that has to be seen in a row."""
SLOW_PART = 4
"""A slow worker has this part of its share; it needs some for it to be seen that it is well."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """A worker that has taken all that it was given."""

    slot: int
    connections: int
    weight: int = 1
    latency_ns: int = 0
    """How long its answers have taken of late, on average; 0 when there were too few."""


@dataclass(frozen=True, slots=True)
class Move:
    """Connections that are to go from the worker of one slot to that of another."""

    origin: int
    target: int
    count: int


class Rebalance:
    """Decides, look after look; what it remembers is which workers are slow."""

    def __init__(self) -> None:
        self._slow: set[int] = set()
        self._seen: dict[int, int] = {}
        """By slot, how often in a row the opposite of what it is thought to be was seen."""

    def moves(self, loads: Sequence[Load], *, max_connections: int = 0) -> list[Move]:
        """Return what is to be done, nothing when that is near enough to the shares.

        `max_connections` are what a worker may have; 0 is no limit.
        """
        self._look(loads)
        count = len(loads)
        total = sum(load.connections for load in loads)
        if count < 2:
            return []
        weights = [one.weight * (1 if one.slot in self._slow else SLOW_PART) for one in loads]
        targets = _shared(total, weights)
        gaps = [load.connections - goal for load, goal in zip(loads, targets, strict=True)]
        if max(gaps) - min(gaps) <= max(TOLERANCE, TOLERANCE_OF_MEAN * total / count):
            return []
        if max_connections:
            targets = [min(target, max_connections) for target in targets]
        return _moves(loads, targets)

    def _look(self, loads: Sequence[Load]) -> None:
        """See who is slow. Once is no proof."""
        known = sorted(load.latency_ns for load in loads if load.latency_ns)
        for load in loads:
            if not load.latency_ns:
                continue  # It has not shown how it is.
            slot, was_slow = load.slot, load.slot in self._slow
            times = WELL_TIMES if was_slow else SLOW_TIMES
            is_slow = load.latency_ns > max(SLOW_NS, times * known[(len(known) - 1) // 2])
            seen = self._seen.pop(slot, 0) + 1
            if is_slow == was_slow:
                continue
            if seen >= (WELL_LOOKS if was_slow else SLOW_LOOKS):
                self._slow ^= {slot}
            else:
                self._seen[slot] = seen


def _shared(total: int, weights: Sequence[int]) -> list[int]:
    """Return shares of the total in whole numbers, by the largest remainder."""
    whole = sum(weights)
    shares = [total * weight // whole for weight in weights]
    by_remainder = sorted(range(len(weights)), key=lambda index: -(total * weights[index] % whole))
    for index in by_remainder[: total - sum(shares)]:
        shares[index] += 1
    return shares


def _moves(loads: Sequence[Load], targets: Sequence[int]) -> list[Move]:
    """Return moves from those above their targets to those below."""
    spare = [
        [load.slot, load.connections - goal] for load, goal in zip(loads, targets, strict=True)
    ]
    givers = [one for one in spare if one[1] > 0]
    takers = [one for one in spare if one[1] < 0]
    moves = []
    while givers and takers:
        giver, taker = givers[0], takers[0]
        count = min(giver[1], -taker[1])
        moves.append(Move(giver[0], taker[0], count))
        giver[1] -= count
        taker[1] += count
        if not giver[1]:
            del givers[0]
        if not taker[1]:
            del takers[0]
    return moves
