"""A socket that receives datagrams and that workers share: each comes to one of them.

Its descriptor is the socket's own, so that any loop can have it.
"""

import errno
import os
import select
import socket
from collections.abc import Callable, Iterable
from typing import Any, NoReturn, TypeVar

from sdcluster.worker.sockets.file_sharing import SharedSocket

T = TypeVar("T")


class DatagramSocket(SharedSocket):
    """A bound datagram socket. A worker that leaves receives for as long as it has it open."""

    def __init__(self, fd: int, *, name: Any, on_closed: Callable[[bool], None]) -> None:
        """`name` is what it is bound to. `on_closed` may be called by a finalizer."""
        super().__init__(fileno=fd)
        socket.socket.setblocking(self, False)
        self._timeout = socket.getdefaulttimeout()
        self._name = name
        self._on_closed = on_closed

    def getsockname(self) -> Any:
        """Return what it is bound to."""
        return self._name

    def accept(self) -> NoReturn:
        """Raise OSError, as of any such socket."""
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))

    def listen(self, backlog: int = 0, /) -> NoReturn:  # noqa: ARG002
        """Raise OSError, as of any such socket."""
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))

    def recv(self, bufsize: int, flags: int = 0, /) -> bytes:
        """As of any socket."""
        return self._called(flags, super().recv, bufsize, flags)

    def recv_into(self, buffer: Any, nbytes: int = 0, flags: int = 0) -> int:
        """As of any socket."""
        return self._called(flags, super().recv_into, buffer, nbytes, flags)

    def recvfrom(self, bufsize: int, flags: int = 0, /) -> tuple[bytes, Any]:
        """As of any socket."""
        return self._called(flags, super().recvfrom, bufsize, flags)

    def recvfrom_into(self, buffer: Any, nbytes: int = 0, flags: int = 0) -> tuple[int, Any]:
        """As of any socket."""
        return self._called(flags, super().recvfrom_into, buffer, nbytes, flags)

    def recvmsg(
        self, bufsize: int, ancbufsize: int = 0, flags: int = 0, /
    ) -> tuple[bytes, list[tuple[int, int, bytes]], int, Any]:
        """As of any socket."""
        return self._called(flags, super().recvmsg, bufsize, ancbufsize, flags)

    def recvmsg_into(
        self, buffers: Iterable[Any], ancbufsize: int = 0, flags: int = 0, /
    ) -> tuple[int, list[tuple[int, int, bytes]], int, Any]:
        """As of any socket."""
        return self._called(flags, super().recvmsg_into, list(buffers), ancbufsize, flags)

    def send(self, data: Any, flags: int = 0, /) -> int:
        """As of any socket."""
        return self._called(flags, super().send, data, flags, events=select.POLLOUT)

    def sendto(self, data: Any, *where: Any) -> int:
        """As of any socket: `where` is the address, maybe after flags."""
        flags = where[0] if len(where) > 1 else 0
        return self._called(flags, super().sendto, data, *where, events=select.POLLOUT)

    def sendmsg(
        self, buffers: Any, ancdata: Any = (), flags: int = 0, address: Any = None, /
    ) -> int:
        """As of any socket."""
        arguments = (list(buffers), list(ancdata), flags, address)
        return self._called(flags, super().sendmsg, *arguments, events=select.POLLOUT)

    def _called(
        self, flags: int, call: Callable[..., T], *arguments: Any, events: int = select.POLLIN
    ) -> T:
        """Return what a call does, which waits unless the flags or this worker say otherwise."""
        if flags & socket.MSG_DONTWAIT:
            return call(*arguments)
        return self._retried(lambda: call(*arguments), events)

    def _release(self) -> None:
        pass  # It is nothing but its descriptor.
