"""A listening socket whose file workers share: each accepts by itself.

The descriptor of the socket is an epoll(7) that watches the file: when this worker is to accept no
more, the file is taken out, and nobody is woken any more.
"""

import contextlib
import errno
import os
import select
import socket
from collections.abc import Callable
from typing import Any

from sdcluster.worker import tls, uvserver
from sdcluster.worker.connection import Connection, Tally
from sdcluster.worker.shared import SharedSocket


class HeldListener(SharedSocket):
    """A listener that this worker accepts on by itself."""

    def __init__(
        self, fd: int, *, on_closed: Callable[[], None], on_count: Callable[[int], None]
    ) -> None:
        """`on_count` is told of connections opened and closed; both may be by a finalizer."""
        self._listener = socket.socket(fileno=fd)
        self._listener.setblocking(False)
        super().__init__(self._listener.family, socket.SOCK_STREAM)
        self._epoll = select.epoll()
        self._epoll.register(self._listener, select.EPOLLIN)
        os.dup2(self._epoll.fileno(), self.fileno(), inheritable=False)
        self._is_silent = False
        self._timeout = socket.getdefaulttimeout()
        self._counts = Tally(on_count)
        self._on_closed = on_closed
        uvserver.teach(HeldListener)
        tls.teach()

    def getsockname(self) -> Any:
        """Return what it is bound to."""
        return self._listener.getsockname()

    def getsockopt(self, *arguments: Any) -> Any:
        """As of any socket."""
        return self._listener.getsockopt(*arguments)

    def setsockopt(self, *arguments: Any) -> None:
        """As of any socket; it is the option of all workers."""
        self._listener.setsockopt(*arguments)

    def _accept_one(self) -> tuple[socket.socket, Any]:
        return self._retried(self._accepted)

    def _accepted(self) -> tuple[socket.socket, Any]:
        if self._is_silent:
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        fd, address = self._listener._accept()  # type: ignore[attr-defined]
        self._counts.change(1)
        return Connection(fd, self._counts), address

    def be_silent(self) -> None:
        """Never be ready again: the others get what comes, and who waits is to wait."""
        self._is_silent = True
        with contextlib.suppress(OSError, ValueError):  # It is closed.
            self._epoll.unregister(self._listener)

    def _release(self) -> None:
        self._epoll.close()
        self._listener.close()
