"""How many connections of a shared listener a worker may have open."""

import contextlib
import select
import socket
import threading
from collections import deque


class Room:
    """A limit, and the watch for new connections, which ends while there is no room for them.

    Any thread may take room, and leave it; so may a finalizer, which must not wait: what it changes
    is queued, and made by whoever holds the lock or gets it.
    """

    def __init__(self, epoll: select.epoll, listener: socket.socket, limit: int) -> None:
        """`epoll` watches the listener already."""
        self._epoll = epoll
        self._listener = listener
        self._limit = limit
        self._open = 0
        self._is_watched = True
        self._is_closed = False
        self._changes: deque[int] = deque()
        self._lock = threading.Lock()

    def take(self) -> bool:
        """Take room for one connection; False when there is none."""
        with self._lock:
            self._make_changes()
            has_room = self._open < self._limit
            if has_room:
                self._changes.append(1)
                self._make_changes()
        self._settle()
        return has_room

    def change(self, connections: int) -> None:
        """Count connections that were opened or closed."""
        self._changes.append(connections)
        self._settle()

    def close(self) -> None:
        """Watch no more, whatever room there will be."""
        self._is_closed = True

    def _settle(self) -> None:
        # Looked at again after the lock is released: a change may have come in between.
        while self._changes and self._lock.acquire(blocking=False):
            try:
                self._make_changes()
            finally:
                self._lock.release()

    def _make_changes(self) -> None:
        while self._changes:
            self._open += self._changes.popleft()
        is_wanted = self._open < self._limit and not self._is_closed
        if is_wanted == self._is_watched:
            return
        self._is_watched = is_wanted
        with contextlib.suppress(OSError, ValueError):  # It is closed.
            if is_wanted:
                self._epoll.register(self._listener, select.EPOLLIN)
            else:
                self._epoll.unregister(self._listener)
