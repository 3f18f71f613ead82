"""Which worker gets the next connection. Pure, and on the hot path: a few comparisons a worker.

A worker is a candidate while it has taken nearly all it was given (`outstanding` below the cap),
has fewer open connections than allowed, and has descriptors for more. So a worker that is busy,
stuck or stopped gets a few connections at the most, and those come back if it dies.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol, TypeVar

MAX_OUTSTANDING = 8
"""Connections given to a worker and not yet taken by it."""
EVEN_LATENCY_NS = 1_000_000
"""Workers that answer within this are equally fast: below it there is mostly noise."""


class Policy(StrEnum):
    """How the next one is found."""

    ROUND_ROBIN = "round-robin"
    LEAST_CONNECTIONS = "least-connections"
    LEAST_LATENCY = "least-latency"


class Queue(Protocol):
    """What is known of any worker."""

    def outstanding(self) -> int:
        """Return how many connections it was given and has not taken."""


class Candidate(Protocol):
    """What a worker's load looks like from outside."""

    slot: int
    credit: int
    """What it is owed; kept here for `WeightedRoundRobin`, 0 at first."""
    max_connections: int
    """That it alone may have open; 0 when the rules say how many."""

    def outstanding(self) -> int:
        """Return how many connections it was given and has not taken."""

    def connections(self) -> int:
        """Return how many connections it has open."""

    def is_starved(self) -> bool:
        """Tell whether it has no descriptors for another connection."""

    def latency_ns(self) -> int:
        """Return how long an answer of its is expected to take; 0 when nothing is known."""

    def measured_ns(self) -> int:
        """Return how long it was when it was last measured, however long ago; 0 if never."""


Q = TypeVar("Q", bound=Queue)
C = TypeVar("C", bound=Candidate)


def fewest_outstanding(queues: Sequence[Q]) -> Q:
    """Return the worker that has the fewest connections to take, however full it is."""
    return min(queues, key=lambda queue: queue.outstanding())


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """By what the next one is chosen."""

    policy: Policy = Policy.ROUND_ROBIN
    weights: tuple[int, ...] = ()
    """By slot; 1 for those beyond."""
    max_connections: int = 0
    """That a worker may have open which has no limit of its own; 0 is no limit."""

    def weight(self, slot: int) -> int:
        """Return what share of the connections a slot gets, beside the others."""
        return self.weights[slot] if slot < len(self.weights) else 1

    def balance(self) -> "Balance":
        """Return what chooses by these rules."""
        match self.policy:
            case Policy.LEAST_CONNECTIONS:
                return LeastConnections(self)
            case Policy.LEAST_LATENCY:
                return LeastLatency(self)
        return WeightedRoundRobin(self) if set(self.weights) - {1} else RoundRobin(self)


class Balance(Protocol):
    """Chooses a worker, and is told when that has got its connection."""

    def pick(self, candidates: Sequence[C]) -> C | None:
        """Return the next worker with room, or None when all are full.

        It stays the next one until `advance`: there may be no connection to give after all.
        """

    def advance(self) -> None:
        """Pass the turn on: the worker that was picked last got its connection."""


def _has_room(candidate: Candidate, limit: int) -> bool:
    outstanding = candidate.outstanding()
    if outstanding >= MAX_OUTSTANDING or candidate.is_starved():
        return False
    limit = candidate.max_connections or limit
    return not limit or outstanding + candidate.connections() < limit


class RoundRobin:
    """Each worker in turn, full ones passed over; weights do not count."""

    __slots__ = ("_limit", "_next", "_picked")

    def __init__(self, rules: Rules) -> None:
        self._next = 0
        self._picked = 0
        self._limit = rules.max_connections

    def pick(self, candidates: Sequence[C]) -> C | None:
        """Return the next worker with room."""
        count = len(candidates)
        for step in range(count):
            index = (self._next + step) % count
            candidate = candidates[index]
            if _has_room(candidate, self._limit):
                self._picked = index
                return candidate
        return None

    def advance(self) -> None:
        """Pass the turn on."""
        self._next = self._picked + 1


class WeightedRoundRobin:
    """Smooth weighted round-robin, nginx's: with weights 5, 1, 1 the order is a a b a c a a.

    At each turn all are owed their weight, and who is owed most gets the connection and pays for it
    what all were owed. Those that are full neither earn nor pay.
    """

    __slots__ = ("_earners", "_limit", "_picked", "_rules")

    def __init__(self, rules: Rules) -> None:
        self._rules = rules
        self._limit = rules.max_connections
        self._earners: list[tuple[Candidate, int]] = []
        self._picked: Candidate | None = None

    def pick(self, candidates: Sequence[C]) -> C | None:
        """Return the worker with room that is owed most."""
        weight = self._rules.weight
        earners = [(one, weight(one.slot)) for one in candidates if _has_room(one, self._limit)]
        picked: C | None = None
        most = 0
        for one, earned in earners:
            owed = one.credit + earned
            if picked is None or owed > most:
                picked, most = one, owed
        self._earners[:] = earners
        self._picked = picked
        return picked

    def advance(self) -> None:
        """Pass the turn on."""
        for one, earned in self._earners:
            one.credit += earned
        if self._picked is not None:
            self._picked.credit -= sum(earned for _, earned in self._earners)


class _Least:
    """The worker with room that costs least; of equal ones each in turn."""

    __slots__ = ("_next", "_picked", "_rules")

    def __init__(self, rules: Rules) -> None:
        self._rules = rules
        self._next = 0
        self._picked = 0

    def pick(self, candidates: Sequence[C]) -> C | None:
        """Return the worker with room that costs least."""
        count, limit = len(candidates), self._rules.max_connections
        costs = self._costs(candidates)
        picked: C | None = None
        least = 0.0
        for step in range(count):
            index = (self._next + step) % count
            candidate = candidates[index]
            if (picked is None or costs[index] < least) and _has_room(candidate, limit):
                picked, least = candidate, costs[index]
                self._picked = index
        return picked

    def _costs(self, candidates: Sequence[C]) -> list[float]:
        raise NotImplementedError

    def advance(self) -> None:
        """Pass the turn on."""
        self._next = self._picked + 1


class LeastConnections(_Least):
    """The worker with the fewest connections, for its weight."""

    __slots__ = ()

    def _costs(self, candidates: Sequence[C]) -> list[float]:
        weight = self._rules.weight
        return [_load(one) / weight(one.slot) for one in candidates]


class LeastLatency(_Least):
    """The worker whose answers are expected soonest: latency times connections, for its weight.

    So one that takes twice as long has half as many connections. One that has not answered for long
    is taken to be as fast as the fastest was, and not faster: it is tried, not flooded.
    """

    __slots__ = ()

    def _costs(self, candidates: Sequence[C]) -> list[float]:
        weight = self._rules.weight
        measured = [ns for one in candidates if (ns := one.measured_ns())]
        fastest = max(EVEN_LATENCY_NS, min(measured, default=0))
        return [
            max(one.latency_ns(), fastest) * _load(one) / weight(one.slot) for one in candidates
        ]


def _load(candidate: Candidate) -> int:
    """Return how many connections a worker would have."""
    return candidate.outstanding() + candidate.connections() + 1
