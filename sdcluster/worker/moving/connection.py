"""The connections of a worker, and how many of them are open."""

import mmap
import os
import socket
import threading
from collections import deque
from collections.abc import Callable

from sdcluster.wire.scoreboard import SIZE_BYTES, Field, Scoreboard


class Counts:
    """What the scoreboard says of a listener's connections.

    Any thread may change it, and a finalizer, which may run within any other call and must not
    wait: a change is queued, and made by whoever holds the lock or gets it.
    """

    def __init__(
        self, board_fd: int, *, on_count: Callable[[int], None], on_wanted: Callable[[], None]
    ) -> None:
        """`on_wanted` is to tell the master that there is room again. `board_fd` is closed."""
        try:
            self._page = mmap.mmap(board_fd, SIZE_BYTES)
        finally:
            os.close(board_fd)
        self._board: Scoreboard | None = Scoreboard(self._page)
        self._on_count = on_count
        self._on_wanted = on_wanted
        self._changes: deque[tuple[int, int] | None] = deque()
        self._lock = threading.Lock()
        self._pid = os.getpid()

    def change(self, connections: int, taken: int = 0) -> None:
        """Count connections that were opened or closed, and frames that were taken."""
        self._queue((connections, taken))

    def close(self) -> None:
        """Let go of the scoreboard. Connections that are still open are counted on without it."""
        self._queue(None)

    def _queue(self, change: tuple[int, int] | None) -> None:
        if os.getpid() != self._pid:
            return  # A copy of the process closes copies of the connections.
        self._changes.append(change)
        # Looked at again after the lock is released: a change may have come in between.
        while self._changes and self._lock.acquire(blocking=False):
            try:
                while self._changes:
                    self._make(self._changes.popleft())
            finally:
                self._lock.release()

    def _make(self, change: tuple[int, int] | None) -> None:
        if change is None:
            if self._board is not None:
                self._board.release()
                self._board = None
                self._page.close()
            return
        connections, taken = change
        if self._board is not None:
            words = self._board.words
            # In this order: the master adds the two up, and must not miss a connection in between.
            words[Field.CONNECTIONS] += connections
            words[Field.TAKEN] += taken
            if (taken or connections < 0) and words[Field.WAITING]:
                words[Field.WAITING] = 0
                self._on_wanted()
        if connections:
            self._on_count(connections)


class Tally(Counts):
    """Counts of which no scoreboard is kept."""

    def __init__(self, on_count: Callable[[int], None]) -> None:
        self._tell = on_count

    def change(self, connections: int, taken: int = 0) -> None:  # noqa: ARG002
        """Count connections that were opened or closed."""
        self._tell(connections)


class Counted(socket.socket):
    """A socket that tells when it is closed, where `_counts` is set."""

    __slots__ = ()

    _counts: Counts | None

    def _gone(self) -> None:
        counts, self._counts = self._counts, None
        if counts is not None:
            counts.change(-1)

    def _real_close(self) -> None:  # What close() comes to, when no file made of it is open.
        try:
            super()._real_close()  # type: ignore[misc]
        finally:
            self._gone()

    def detach(self) -> int:
        """As of any socket; it counts as closed from then on."""
        fd = super().detach()
        self._gone()
        return fd

    def __del__(self) -> None:
        super().__del__()  # type: ignore[misc]  # Warns of what was not closed, and closes it.
        self._gone()


class Connection(Counted):
    """An accepted connection. A duplicate counts as another one."""

    __slots__ = ("_counts",)

    def __init__(self, fd: int, counts: Counts) -> None:
        """It is counted already."""
        self._counts: Counts | None = counts
        super().__init__(fileno=fd)

    def dup(self) -> "Connection":
        """As of any socket."""
        fd = os.dup(self.fileno())
        assert self._counts is not None  # Or there was no descriptor.
        self._counts.change(1)
        copy = Connection(fd, self._counts)
        copy.settimeout(self.gettimeout())
        return copy
