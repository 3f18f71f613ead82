"""A listening socket whose file workers share: each accepts by itself.

The descriptor of the socket is an epoll(7) that watches the file: when this worker is to accept no
more, the file is taken out, and nobody is woken any more.
"""

import contextlib
import errno
import os
import select
import socket
import threading
from collections import deque
from collections.abc import Callable
from typing import Any

from sdcluster.worker.moving.connection import Connection, Tally
from sdcluster.worker.moving.room import Room
from sdcluster.worker.sockets import tls, uvicorn_server
from sdcluster.worker.sockets.file_sharing import SharedSocket


class HeldListener(SharedSocket):
    """A listener that this worker accepts on by itself."""

    def __init__(
        self,
        fd: int,
        *,
        name: Any,
        ends_with: str,
        max_connections: int,
        on_closed: Callable[[bool], None],
        on_count: Callable[[int], None],
    ) -> None:
        """`name` is what it is bound to.

        `ends_with` is `worker`, `cluster` or neither: when nobody is left to accept from it.

        With `max_connections` open, 0 is no limit, it leaves what comes to others. `on_count` is
        told of connections opened and closed; both it and `on_closed` may be by a finalizer.
        """
        self.ends_with = ends_with
        self._listener = socket.socket(fileno=fd)
        self._listener.setblocking(False)
        self._name = name
        self._taken: deque[tuple[socket.socket, Any]] = deque()
        self._ready = -1
        """Counts what is taken: an eventfd(2), which wakes who waits for a connection."""
        self._lock = threading.Lock()
        super().__init__(self._listener.family, socket.SOCK_STREAM)
        self._epoll = select.epoll()
        self._epoll.register(self._listener, select.EPOLLIN)
        os.dup2(self._epoll.fileno(), self.fileno(), inheritable=False)
        self._is_silent = False
        self._timeout = socket.getdefaulttimeout()
        self._on_count = on_count
        self._room: Room | None = None
        if max_connections:
            self._room = room = Room(self._epoll, self._listener, max_connections)

            def count(change: int) -> None:  # Without this object, which is to be collected.
                on_count(change)
                room.change(change)

            self._counts = Tally(count)
        else:
            self._counts = Tally(on_count)
        self._on_closed = on_closed
        uvicorn_server.teach(HeldListener)
        tls.teach()

    def getsockname(self) -> Any:
        """Return what it is bound to."""
        return self._name

    def getsockopt(self, *arguments: Any) -> Any:
        """As of any socket."""
        return self._listener.getsockopt(*arguments)

    def setsockopt(self, *arguments: Any) -> None:
        """As of any socket; it is the option of all workers."""
        self._listener.setsockopt(*arguments)

    def _accept_one(self) -> tuple[socket.socket, Any]:
        return self._retried(self._accepted)

    def _accepted(self) -> tuple[socket.socket, Any]:
        if self._ready >= 0:
            with contextlib.suppress(BlockingIOError):
                os.eventfd_read(self._ready)
                return self._taken.popleft()
        return self._accepted_now()

    def _accepted_now(self) -> tuple[socket.socket, Any]:
        if self._is_silent or (self._room is not None and not self._room.take()):
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        try:
            return self._take()
        except BaseException as error:
            if self._room is not None:
                self._room.change(-1)
            if isinstance(error, OSError) and self._has_ended():
                raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN)) from None
            raise

    def _has_ended(self) -> bool:
        """Whether it has become silent, meanwhile maybe."""
        return self._is_silent

    def _take(self) -> tuple[socket.socket, Any]:
        fd, address = self._listener._accept()  # type: ignore[attr-defined]
        self._on_count(1)
        return Connection(fd, self._counts), address

    def take_some(self, count: int) -> bool:
        """Accept what waits, at most `count`, for `accept` to return; False when nothing is left.

        It is woken when all of it was taken, by whatever thread.
        """
        if self._is_silent:
            return False
        with self._lock, contextlib.suppress(ConnectionAbortedError):
            try:
                if self._ready < 0:
                    self._ready = os.eventfd(0, os.EFD_SEMAPHORE | os.EFD_NONBLOCK)
                    self._epoll.register(self._ready, select.EPOLLIN)
                for _ in range(count):
                    self._taken.append(self._take())
                    os.eventfd_write(self._ready, 1)
            except BlockingIOError:
                return False
            except ValueError:
                return False  # It is closed.
            except OSError as error:
                return error.errno != errno.EBADF
        return True

    def be_silent(self) -> None:
        """Never be ready again: the others get what comes, and who waits is to wait."""
        self._is_silent = True
        if self._room is not None:
            self._room.close()
        with contextlib.suppress(OSError, ValueError):  # It is closed.
            self._epoll.unregister(self._listener)

    def end(self) -> None:
        """Be silent, and let go of the file: when the last has done so, clients are refused.

        The descriptor stays, of another file: who has just begun to accept finds nothing there.
        """
        self.be_silent()
        with self._lock:
            try:
                with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as nothing:
                    os.dup2(nothing.fileno(), self._listener.fileno(), inheritable=False)
            except OSError:
                self._listener.close()  # There is no descriptor left; or it is closed already.

    def _release(self) -> None:
        with self._lock:
            self._epoll.close()
            self._listener.close()
            while self._taken:
                self._taken.popleft()[0].close()
            if self._ready >= 0:
                os.close(self._ready)
                self._ready = -1
