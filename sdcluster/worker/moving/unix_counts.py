"""What was read from a Unix socket, and written to one, whenever its worker dies.

The kernel counts the bytes of a TCP connection, and not those of a Unix socket. Two things of it
tell them all the same:

- What is about to be read is looked at first. With SO_PEEK_OFF, see socket(7), the kernel notes how
  much of the queue was looked at, and takes off what is read.
- What is about to be written goes into a pipe first, and from there to the socket by splice(2). The
  pipe still has what is not written.

So the worker notes how far it is going to read or write, and whoever asks after its death subtracts
what is left.
"""

import fcntl
import os
import socket
import termios

from sdcluster.system.descriptors import Borrowed, queued
from sdcluster.wire.ledger import NOT_KNOWN, Head, Word
from sdcluster.worker.moving.ledger import Ledger

PIECE_BYTES = 64 * 1024
"""What is written at a time: what a pipe has room for, see pipe(7)."""

_SO_PEEK_OFF = 42
_PIPE = int(Head.PIPE)
_PEEK = int(socket.MSG_PEEK | socket.MSG_DONTWAIT)  # As enums they are slow.


class Pipe:
    """The way of what is written. One writes at a time, and leaves it empty."""

    def __init__(self, ledger: Ledger) -> None:
        """Note in the ledger which it is. Raises OSError."""
        self._out, self._in = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._capacity = fcntl.fcntl(self._in, fcntl.F_GETPIPE_SZ)
        ledger.words[_PIPE] = self._out + 1

    def fill(self, data: bytes | memoryview) -> bool:
        """Put all of it in; False when that cannot be, and nothing is in it."""
        size = len(data)
        if size > self._capacity:
            return False
        try:
            if os.write(self._in, data) == size:
                return True
        except OSError:
            pass  # No memory; or the app has closed it.
        self.drain(size)
        return False

    def pour(self, fd: int, size: int) -> int:
        """Write what is in it to a socket; return how much was."""
        try:
            return os.splice(self._out, fd, size)
        except OSError:
            return 0  # Full; or broken, which the transport will find.

    def drain(self, size: int) -> None:
        """Empty it of so much, or less."""
        try:
            os.read(self._out, size)
        except OSError:
            pass  # There is nothing.


class Peek:
    """The way of what is read from one connection."""

    def __init__(self, connection: socket.socket) -> None:
        """Begin at what is unread. Raises OSError where the kernel notes nothing."""
        self._socket = connection
        self.rewind()

    def rewind(self) -> None:
        """Begin at what is unread. Raises OSError."""
        self._socket.setsockopt(socket.SOL_SOCKET, _SO_PEEK_OFF, 0)

    def look(self, room: memoryview) -> int:
        """Put what is unread where it is going to be read to; return how much; 0 when none is."""
        try:
            return self._socket.recv_into(room, 0, _PEEK)
        except OSError:
            return 0


def totals(ledger: Ledger, number: int) -> tuple[int, int]:
    """Return what `LENGTH` and `OUT_DONE` are, in truth, of a connection whose worker is dead."""
    words, at = ledger.words, ledger.index(number)
    length, done = words[at + Word.LENGTH], words[at + Word.OUT_DONE]
    reading, writing = words[at + Word.READING], words[at + Word.WRITING]
    try:
        if reading:
            length = reading - _unread(number)
        if writing:
            done = writing - _unwritten(words[_PIPE] - 1)
    except OSError:
        return NOT_KNOWN, NOT_KNOWN
    return (length, done) if length >= 0 and done >= 0 else (NOT_KNOWN, NOT_KNOWN)


def settle(ledger: Ledger, number: int) -> None:
    """Write down what those are."""
    words, at = ledger.words, ledger.index(number)
    if words[at + Word.READING] or words[at + Word.WRITING]:
        words[at + Word.LENGTH], words[at + Word.OUT_DONE] = totals(ledger, number)


def _unread(fd: int) -> int:
    with Borrowed(fd, socket.AF_UNIX, socket.SOCK_STREAM, 0) as sock:
        return sock.getsockopt(socket.SOL_SOCKET, _SO_PEEK_OFF)


def _unwritten(pipe: int) -> int:
    return queued(pipe, termios.FIONREAD)
