"""A listening socket whose connections the master accepts and hands over.

It works where a `socket.socket` that listens does: it can be waited for, and `accept` returns a
connection. They come through a channel from the master, one a frame. The descriptor of the socket
is not the channel but an epoll(7) that watches it: when no more connections will come, the channel
is at its end, and ready to be read for ever; it is taken out, and nobody is woken any more.
"""

import errno
import mmap
import os
import select
import socket
import threading
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any

from sdcluster import descriptors
from sdcluster.wire import channel
from sdcluster.wire.scoreboard import SIZE_BYTES, Field, Scoreboard
from sdcluster.worker import uvserver
from sdcluster.worker.intake import tell
from sdcluster.worker.listener import ClusterListener

_ANCILLARY_BYTES = descriptors.space(1)


class Counts:
    """What the scoreboard says of a listener's connections.

    Any thread may change it, and a finalizer, which may run within any other call and must not
    wait: a change is queued, and made by whoever holds the lock or gets it.
    """

    def __init__(
        self, board_fd: int, *, on_count: Callable[[int], None], on_wanted: Callable[[], None]
    ) -> None:
        """`on_wanted` is to tell the master that a connection was taken. `board_fd` is closed."""
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
            if taken and words[Field.WAITING]:
                words[Field.WAITING] = 0
                self._on_wanted()
        if connections:
            self._on_count(connections)


class Connection(socket.socket):
    """An accepted connection, which tells when it is closed. A duplicate counts as another one."""

    __slots__ = ("_counts",)

    def __init__(self, fd: int, counts: Counts) -> None:
        """It is counted already."""
        self._counts: Counts | None = counts
        super().__init__(fileno=fd)

    def _gone(self) -> None:
        counts, self._counts = self._counts, None
        if counts is not None:
            counts.change(-1)

    def _real_close(self) -> None:  # What close() comes to, when no file made of it is open.
        try:
            super()._real_close()  # type: ignore[misc]
        finally:
            self._gone()

    def dup(self) -> "Connection":
        """As of any socket."""
        fd = os.dup(self.fileno())
        assert self._counts is not None  # Or there was no descriptor.
        self._counts.change(1)
        copy = Connection(fd, self._counts)
        copy.settimeout(self.gettimeout())
        return copy

    def detach(self) -> int:
        """As of any socket; it counts as closed from then on."""
        fd = super().detach()
        self._gone()
        return fd

    def __del__(self) -> None:
        super().__del__()  # type: ignore[misc]  # Warns of what was not closed, and closes it.
        self._gone()


class HandedListener(ClusterListener):
    """A listener whose connections come from the master."""

    def __init__(
        self,
        fd: int,
        board_fd: int,
        *,
        family: int,
        name: Any,
        on_closed: Callable[[], None],
        on_count: Callable[[int], None],
    ) -> None:
        """`name` is what it is bound to; `on_count` is told of connections opened and closed.

        Both it and `on_closed` may be called by a finalizer, and must not wait for other threads.
        """
        self._channel = socket.socket(fileno=fd)
        # Nothing here refers to this object: it is closed as soon as nobody has it.
        on_wanted = partial(tell, self._channel, X_TAKEN=1)
        self._counts = Counts(board_fd, on_count=on_count, on_wanted=on_wanted)
        super().__init__(family, socket.SOCK_STREAM)
        self._epoll = select.epoll()
        self._epoll.register(self._channel, select.EPOLLIN)
        os.dup2(self._epoll.fileno(), self.fileno(), inheritable=False)
        self._silence: socket.socket | None = None
        self._lock = threading.Lock()
        self._name = tuple(name) if isinstance(name, list) else name
        self._on_closed = on_closed
        self.settimeout(self.gettimeout())
        uvserver.teach(HandedListener)

    def getsockname(self) -> Any:
        """Return what it is bound to."""
        return self._name

    def settimeout(self, value: float | None, /) -> None:
        """As of any socket."""
        super().settimeout(value)
        self._channel.settimeout(value)
        if self._silence is not None:
            self._silence.settimeout(value)

    def setblocking(self, flag: bool, /) -> None:
        """As of any socket."""
        self.settimeout(None if flag else 0.0)

    def accept(self) -> tuple[socket.socket, Any]:
        """Return a connection and the address of its client, as socket.accept does.

        When the master has no more, one that does not wait has none, and one that waits is to wait;
        but one that need not, as it seemed, gets ConnectionAbortedError: a server that is told that
        the listener is ready may wait for something else.
        """
        while True:
            descriptors.require(1, like=self.fileno())  # Or the connection would be lost.
            data, fds, has_waited = self._receive()
            if not data:
                self._be_silent()
                if not has_waited:
                    raise ConnectionAbortedError(errno.ECONNABORTED, "no connections will come")
            elif data != channel.CONNECTION:
                descriptors.close_all(fds)
            elif (accepted := self._take(fds)) is not None:
                return accepted

    def _receive(self) -> tuple[bytes, list[int], bool]:
        """Return a frame and its descriptors, and whether it was, or could be, waited for."""
        source = self._channel if self._silence is None else self._silence
        if self.gettimeout() is not None:
            return (*_receive(source, 0), True)
        try:
            return (*_receive(source, socket.MSG_DONTWAIT), False)
        except BlockingIOError:
            return (*_receive(source, 0), True)

    def _take(self, fds: list[int]) -> tuple[socket.socket, Any] | None:
        """Return what `accept` does; None when the client has gone already."""
        self._counts.change(min(len(fds), 1), taken=1)
        if not fds:
            text = f"{os.strerror(errno.EMFILE)}: a connection was lost"
            raise OSError(errno.EMFILE, text)
        connection = Connection(fds[0], self._counts)
        descriptors.close_all(fds[1:])
        try:
            return connection, connection.getpeername()
        except OSError:
            connection.close()
            return None

    def _be_silent(self) -> None:
        """Never be ready again: no more connections will come, and who waits is to wait."""
        with self._lock:
            if self._silence is None:
                # Nobody can send to it.
                silence = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
                silence.settimeout(self.gettimeout())
                self._epoll.unregister(self._channel)
                self._silence = silence

    def _release(self) -> None:
        self._epoll.close()
        self._channel.close()
        if self._silence is not None:
            self._silence.close()
        self._counts.close()


def _receive(source: socket.socket, flags: int) -> tuple[bytes, list[int]]:
    while True:
        try:
            data, ancillary, _, _ = source.recvmsg(
                1, _ANCILLARY_BYTES, socket.MSG_CMSG_CLOEXEC | flags
            )
        except ConnectionResetError:
            continue  # The master died with something unread, which is told once; the end follows.
        return data, descriptors.attached(ancillary)
