"""What the listeners of the cluster's have in common, wherever their connections come from."""

import errno
import socket
from collections.abc import Callable
from typing import NoReturn


class ClusterListener(socket.socket):
    """A listener of the cluster's. `close` closes it for this worker.

    Whoever makes one sets `_on_closed`, which is called once, maybe by a finalizer.
    """

    _on_closed: Callable[[], None] | None = None

    def listen(self, backlog: int = 0, /) -> None:
        """Do nothing: the master listens."""

    def dup(self) -> NoReturn:
        """Raise OSError: the master knows of one listener."""
        raise OSError(errno.EOPNOTSUPP, "a listener of the cluster's cannot be duplicated")

    def detach(self) -> int:
        """As of any socket; the descriptor is of no use, and the listener is closed."""
        fd = super().detach()
        self._gone()
        return fd

    def _real_close(self) -> None:
        super()._real_close()  # type: ignore[misc]
        self._gone()

    def __del__(self) -> None:
        super().__del__()  # type: ignore[misc]  # Warns of what was not closed, and closes it.
        self._gone()

    def _gone(self) -> None:
        on_closed, self._on_closed = self._on_closed, None
        if on_closed is not None:
            self._release()
            on_closed()

    def _release(self) -> None:
        """Close what it is made of."""
        raise NotImplementedError
