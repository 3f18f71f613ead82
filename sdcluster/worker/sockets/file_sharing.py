"""What sockets have in common whose file is the master's and of every worker."""

import errno
import os
import select
import time
from collections.abc import Callable
from typing import TypeVar

from sdcluster.worker.sockets.listener import ClusterListener

T = TypeVar("T")


class SharedSocket(ClusterListener):
    """A socket whose file, and so the flags of it, are of all workers.

    The file stays non-blocking, and who wants to wait does so here, for as long as the timeout of
    this worker's own says. Whoever makes one sets `_timeout`.
    """

    _timeout: float | None = None

    def setblocking(self, flag: bool, /) -> None:
        """As of any socket, for this worker alone."""
        self._timeout = None if flag else 0.0

    def settimeout(self, value: float | None, /) -> None:
        """As of any socket, for this worker alone."""
        self._timeout = value

    def gettimeout(self) -> float | None:
        """Return how long a call waits."""
        return self._timeout

    def getblocking(self) -> bool:
        """Whether a call waits."""
        return self._timeout != 0

    def _retried(self, attempt: Callable[[], T], events: int = select.POLLIN) -> T:
        """Return what an attempt comes to that does not raise BlockingIOError, or the time-out."""
        deadline = None if self._timeout is None else time.monotonic() + self._timeout
        while True:
            try:
                return attempt()
            except BlockingIOError:
                if self._timeout == 0:
                    raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN)) from None
            self._wait(deadline, events)

    def _wait(self, deadline: float | None, events: int) -> None:
        poll = select.poll()
        poll.register(self.fileno(), events)
        left_ms = None if deadline is None else max(0.0, deadline - time.monotonic()) * 1000
        if not poll.poll(left_ms):
            raise TimeoutError("timed out")
