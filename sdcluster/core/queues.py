"""What waits for the workers of slots. Pure.

A slot's worker may have no room at the moment, or be dead, and its successor not be there yet. What
is for it waits in a queue of its own, so that one that is stuck delays nobody else; and how long
that lasts, and how much it is, has a limit.
"""

from collections import deque
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How much may wait."""

    slot_bytes: int
    """For one slot."""
    bytes: int
    """For all of them."""
    count: int
    """Items for all slots; for one, half of that."""


@dataclass(frozen=True, slots=True)
class _Item(Generic[T]):
    what: T
    size_bytes: int
    deadline: float


class Queues(Generic[T]):
    """A queue for each slot."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._queues: dict[int, deque[_Item[T]]] = {}
        self._sizes: dict[int, int] = {}
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def slots(self) -> list[int]:
        """Return the slots for which something waits."""
        return list(self._queues)

    def first(self, slot: int) -> T | None:
        """Return what has waited longest for a slot; None when nothing does."""
        queue = self._queues.get(slot)
        return queue[0].what if queue else None

    def add(self, slot: int, what: T, size_bytes: int, *, deadline: float) -> bool:
        """Have something wait; False when that is too much."""
        limits, size = self._limits, self._sizes.get(slot, 0)
        if (
            size + size_bytes > limits.slot_bytes
            or sum(self._sizes.values()) + size_bytes > limits.bytes
            or len(self._queues.get(slot, ())) >= limits.count // 2
            or self._count >= limits.count
        ):
            return False
        self._queues.setdefault(slot, deque()).append(_Item(what, size_bytes, deadline))
        self._sizes[slot] = size + size_bytes
        self._count += 1
        return True

    def pop(self, slot: int) -> T:
        """Take out what has waited longest for a slot. Raises KeyError when nothing does."""
        queue = self._queues[slot]
        item = queue.popleft()
        self._sizes[slot] -= item.size_bytes
        self._count -= 1
        if not queue:
            del self._queues[slot], self._sizes[slot]
        return item.what

    def overdue(self, now: float) -> list[tuple[int, T]]:
        """Take out, with its slot, what has waited for too long."""
        found: list[tuple[int, T]] = []
        for slot in self.slots():
            while slot in self._queues and self._queues[slot][0].deadline <= now:
                found.append((slot, self.pop(slot)))
        return found

    def deadline(self) -> float | None:
        """Return when something will have waited for too long; None when nothing waits."""
        return min((queue[0].deadline for queue in self._queues.values()), default=None)
