"""The connections that wait for a worker, and the memory of what they have brought along.

Each that was handed over has up to `MAX_UNANSWERED_BYTES` of a request. How many of those come at
once is bounded by the ledgers, which what comes was kept in: see `worker.moving.ledger`.
"""

import ctypes
from collections import deque
from collections.abc import Iterable

from sdcluster.master.connections.channels import Passage

TRIM_BYTES = 16 * 1024 * 1024
"""How much has to have been given away before it is seen to that the system has it back."""

_malloc_trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # Not everywhere: malloc_trim(3).


class Memory:
    """What passages take, as long as they wait.

    What is freed stays with the process as long as something above it in the heap is in use: so
    thousands of requests that have waited once would be there for good.
    """

    def __init__(self) -> None:
        self._bytes = 0
        self._most_bytes = 0
        """Since memory was last given back."""

    def take(self, passage: Passage) -> None:
        """Count one that waits from now on."""
        self._bytes += _size(passage)
        self._most_bytes = max(self._most_bytes, self._bytes)

    def give(self, passage: Passage) -> None:
        """Count one that waits no more, and let the system have back what that comes to."""
        self._bytes -= _size(passage)
        if self._most_bytes - self._bytes >= TRIM_BYTES:
            self._most_bytes = self._bytes
            if _malloc_trim is not None:
                _malloc_trim(0)

    def forget(self) -> None:
        """Count none any more: they wait elsewhere, and are given back with the next one."""
        self._bytes = 0


class Passages(deque[Passage]):
    """Passages in their order, to be changed by the methods below alone."""

    def __init__(self) -> None:
        super().__init__()
        self._memory = Memory()

    def append(self, passage: Passage) -> None:
        """Add one at the end."""
        super().append(passage)
        self._memory.take(passage)

    def extend(self, passages: Iterable[Passage]) -> None:
        """Add some at the end."""
        for passage in passages:
            self.append(passage)

    def extendleft(self, passages: Iterable[Passage]) -> None:
        """Add each of some before all others."""
        for passage in passages:
            super().appendleft(passage)
            self._memory.take(passage)

    def take_all(self) -> list[Passage]:
        """Take all of them out. Their memory is given back when another one has been taken."""
        taken = list(self)
        self.clear()
        self._memory.forget()
        return taken

    def popleft(self) -> Passage:
        """Take the first one out. Raises IndexError when there is none."""
        passage = super().popleft()
        self._memory.give(passage)
        return passage


def _size(passage: Passage) -> int:
    return 0 if passage.handoff is None else len(passage.handoff.unanswered)
