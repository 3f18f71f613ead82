"""A socket that receives datagrams and that workers share: each comes to one of them.

Its descriptor is the socket's own, so that any loop can have it.
"""

import select
import socket
from collections.abc import Callable
from typing import Any

from sdcluster.worker.shared import SharedSocket


class DatagramSocket(SharedSocket):
    """A bound datagram socket. A worker that leaves receives for as long as it has it open."""

    def __init__(self, fd: int, *, on_closed: Callable[[], None]) -> None:
        """`on_closed` may be called by a finalizer."""
        super().__init__(fileno=fd)
        socket.socket.setblocking(self, False)
        self._timeout = socket.getdefaulttimeout()
        self._on_closed = on_closed

    def recv(self, *arguments: Any) -> bytes:
        """As of any socket."""
        return self._retried(lambda: super(DatagramSocket, self).recv(*arguments))

    def recv_into(self, *arguments: Any) -> int:
        """As of any socket."""
        return self._retried(lambda: super(DatagramSocket, self).recv_into(*arguments))

    def recvfrom(self, *arguments: Any) -> tuple[bytes, Any]:
        """As of any socket."""
        return self._retried(lambda: super(DatagramSocket, self).recvfrom(*arguments))

    def recvfrom_into(self, *arguments: Any) -> tuple[int, Any]:
        """As of any socket."""
        return self._retried(lambda: super(DatagramSocket, self).recvfrom_into(*arguments))

    def recvmsg(self, *arguments: Any) -> tuple[bytes, list[tuple[int, int, bytes]], int, Any]:
        """As of any socket."""
        return self._retried(lambda: super(DatagramSocket, self).recvmsg(*arguments))

    def recvmsg_into(self, *arguments: Any) -> tuple[int, list[tuple[int, int, bytes]], int, Any]:
        """As of any socket."""
        return self._retried(lambda: super(DatagramSocket, self).recvmsg_into(*arguments))

    def send(self, *arguments: Any) -> int:
        """As of any socket."""
        return self._retried(lambda: super(DatagramSocket, self).send(*arguments), select.POLLOUT)

    def sendto(self, *arguments: Any) -> int:
        """As of any socket."""
        return self._retried(lambda: super(DatagramSocket, self).sendto(*arguments), select.POLLOUT)

    def sendmsg(self, *arguments: Any) -> int:
        """As of any socket."""
        return self._retried(
            lambda: super(DatagramSocket, self).sendmsg(*arguments), select.POLLOUT
        )

    def _release(self) -> None:
        pass  # It is nothing but its descriptor.
