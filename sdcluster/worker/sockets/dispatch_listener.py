"""A listening socket whose connections the master accepts and hands over.

It works where a `socket.socket` that listens does: it can be waited for, and `accept` returns a
connection. They come through a channel from the master, one a frame. The descriptor of the socket
is not the channel but an epoll(7) that watches it: when no more connections will come, the channel
is at its end, and ready to be read for ever; it is taken out, and nobody is woken any more.
"""

import errno
import os
import select
import socket
import termios
import threading
from collections.abc import Callable
from functools import partial
from typing import Any

from sdcluster.system import descriptors
from sdcluster.wire import channel
from sdcluster.worker.moving.connection import Connection, Counts
from sdcluster.worker.moving.intake import tell
from sdcluster.worker.sockets import tls, uvicorn_server
from sdcluster.worker.sockets.listener import ClusterListener

_ANCILLARY_BYTES = descriptors.space(1)


class HandedListener(ClusterListener):
    """A listener whose connections come from the master."""

    def __init__(
        self,
        fd: int,
        board_fd: int,
        *,
        family: int,
        name: Any,
        on_closed: Callable[[bool], None],
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
        self._name = name
        self._on_closed = on_closed
        self.settimeout(self.gettimeout())
        uvicorn_server.teach(HandedListener)
        tls.teach()

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

    def has_connection(self) -> bool:
        """Whether `accept` has one to take: that no more will come is none."""
        try:
            return descriptors.queued(self._channel.fileno(), termios.FIONREAD) > 0
        except (OSError, ValueError):
            return False  # It is closed.

    def _accept_one(self) -> tuple[socket.socket, Any]:
        """Do as `accept`.

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
