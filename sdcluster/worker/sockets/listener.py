"""What the listeners of the cluster's have in common, wherever their connections come from."""

import errno
import select
import socket
from collections.abc import Callable
from typing import Any, NoReturn

_GONE = select.POLLHUP | select.POLLERR | select.POLLNVAL


class ClusterListener(socket.socket):
    """A listener of the cluster's. `close` closes it for this worker.

    Whoever makes one sets `_on_closed`, which is called once, maybe by a finalizer. It is told
    whether somebody has closed it: then it may wait.
    """

    _on_closed: Callable[[bool], None] | None = None
    _secure: Callable[[socket.socket], socket.socket] | None = None
    """Makes a TLS connection of one that was accepted, see `tls`."""

    def accept(self) -> tuple[socket.socket, Any]:
        """Return a connection and the address of its client, as socket.accept does."""
        connection, address = self._accept_one()
        if self._secure is None:
            return connection, address
        try:
            return self._secure(connection), address
        except BaseException:
            connection.close()
            raise

    def _accept_one(self) -> tuple[socket.socket, Any]:
        raise NotImplementedError

    def secure(self, how: Callable[[socket.socket], socket.socket]) -> None:
        """Have `accept` return TLS connections, which `how` makes."""
        self._secure = how

    def listen(self, backlog: int = 0, /) -> None:
        """Do nothing: the master listens."""

    def has_connection(self) -> bool:
        """Whether `accept` has a connection to take."""
        poll = select.poll()
        try:
            poll.register(self.fileno(), select.POLLIN)
        except ValueError:
            return False  # It is closed.
        return any(events & select.POLLIN and not events & _GONE for _, events in poll.poll(0))

    def dup(self) -> NoReturn:
        """Raise OSError: the master knows of one listener."""
        raise OSError(errno.EOPNOTSUPP, "a listener of the cluster's cannot be duplicated")

    def detach(self) -> int:
        """As of any socket; the descriptor is of no use, and the listener is closed."""
        fd = super().detach()
        self._gone(is_meant=True)
        return fd

    def _real_close(self) -> None:
        super()._real_close()  # type: ignore[misc]
        self._gone(is_meant=True)

    def __del__(self) -> None:
        super().__del__()  # type: ignore[misc]  # Warns of what was not closed, and closes it.
        self._gone(is_meant=False)

    def _gone(self, *, is_meant: bool) -> None:
        on_closed, self._on_closed = self._on_closed, None
        if on_closed is not None:
            self._release()
            on_closed(is_meant)

    def _release(self) -> None:
        """Close what it is made of."""
        raise NotImplementedError
