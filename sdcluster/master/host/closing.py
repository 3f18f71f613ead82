"""Closes descriptors that others have had as well, where nothing waits for it.

close(2) of the last copy may take any time: while SO_LINGER waits for a peer that reads nothing
(socket(7)), a file system in a user's process is told, or much memory or a deleted file is given
back. So may that of a Unix socket in which such descriptors are on their way. Here a thread does
it; when one descriptor takes long, another thread goes on with the next.
"""

import contextlib
import os
import socket
import struct
import threading
import time
from collections import deque

from sdcluster.system.descriptors import Borrowed

PATIENCE_S = 0.1
"""How long one descriptor may take before another thread goes on."""
IDLE_S = 1.0
"""How long a thread waits for more before it ends."""
MAX_THREADS = 16

_LINGER = struct.Struct("ii")
_NO_LINGER = _LINGER.pack(0, 0)


class Closing:
    """A queue of descriptors, and the threads that close them."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._queue: deque[int] = deque()
        self.unclosed = 0
        """How many descriptors are not closed yet, those among them that take long."""
        self._threads = 0
        self._waiting = 0
        """Threads that wait for their turn."""
        self._at_work: object | None = None
        """What stands for the thread whose turn it is; None when it is nobody's."""
        self._since = 0.0

    def close(self, descriptors: list[int] | deque[int]) -> None:
        """Close descriptors soon, and take them out of what holds them."""
        if not descriptors:
            return
        with self._changed:
            self._queue.extend(descriptors)
            self.unclosed += len(descriptors)
            descriptors.clear()
            if not self._waiting:
                self._add_thread()
            self._changed.notify()

    def _add_thread(self) -> None:
        if self._threads < MAX_THREADS:
            thread = threading.Thread(target=self._run, name="closing", daemon=True)
            with contextlib.suppress(RuntimeError):  # There may be no more; the next call tries.
                thread.start()
                self._threads += 1

    def _run(self) -> None:
        with self._changed:
            while self._await_turn():
                fd = self._queue.popleft()
                turn = self._at_work = object()
                self._since = time.monotonic()
                if self._queue and not self._waiting:
                    self._add_thread()  # It goes on if this one is stuck.
                self._changed.release()
                try:
                    _close(fd)
                finally:
                    self._changed.acquire()
                    self.unclosed -= 1
                if self._at_work is turn:
                    self._at_work = None
                self._changed.notify_all()
            self._threads -= 1

    def _await_turn(self) -> bool:
        """Wait for something to do; False when nothing has come for a while."""
        end = time.monotonic() + IDLE_S
        while True:
            now = time.monotonic()
            if self._queue:
                if self._at_work is None:
                    return True
                patience_s = self._since + PATIENCE_S - now
                if patience_s <= 0:
                    return True
            elif now >= end:
                return False
            else:
                patience_s = end - now
            self._waiting += 1
            self._changed.wait(patience_s)
            self._waiting -= 1


def _close(fd: int) -> None:
    """Close a descriptor, and do not have it linger: whoever wanted that does not wait here."""
    with contextlib.suppress(OSError):
        if lingers(fd):
            with socket.socket(socket.AF_INET, socket.SOCK_STREAM, 0, fd) as sock:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
        else:
            os.close(fd)


def lingers(fd: int) -> bool:
    """Tell whether to close a descriptor may take a time that was set for it: SO_LINGER."""
    try:
        # What kind of socket it is does not matter here, and to ask takes time.
        with Borrowed(fd, socket.AF_INET, socket.SOCK_STREAM, 0) as sock:
            option = sock.getsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER.size)
    except OSError:
        return False  # It is no socket.
    is_on, seconds = _LINGER.unpack(option)
    return bool(is_on and seconds)


_closing = Closing()


def _renew() -> None:
    """Begin anew in a child: it has none of the threads, and whoever held the lock is not there."""
    global _closing
    _closing = Closing()  # What waits is the parent's to close; the child's copies end with it.


os.register_at_fork(after_in_child=_renew)


def close(descriptors: list[int] | deque[int]) -> None:
    """Close descriptors soon, and take them out of what holds them."""
    _closing.close(descriptors)


def close_socket(sock: socket.socket) -> None:
    """Close a socket soon; it is of no more use at once. Harmless when it is closed."""
    fd = sock.detach()
    if fd >= 0:
        _closing.close([fd])


def release(connection: int) -> None:
    """Close our copy of a connection that we have accepted and given away.

    At once, as the client is told of its end when the last copy is closed.
    """
    if lingers(connection):
        _closing.close([connection])
    else:
        os.close(connection)


def unclosed() -> int:
    """Return how many descriptors are not closed yet, those among them that take long."""
    return _closing.unclosed
