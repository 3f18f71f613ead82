"""File descriptors in numbers: those that came with a message, duplicates, and room for more.

Used by the master and by the workers; it needs the standard library alone.
"""

import array
import errno
import fcntl
import os
import select
import socket
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

from sdcluster.errors import ProtocolError

EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
"""What accept(2) says when descriptors or memory are used up."""
EXHAUSTED_RETRY_S = 0.25
"""How long to leave what comes where it is then."""
NO_ROOM = frozenset({errno.ETOOMANYREFS, errno.ENOBUFS, errno.ENOMEM})
"""What sendmsg(2) says when the descriptors on their way, or its buffers, are at a limit."""

_CTRUNC, _TRUNC = int(socket.MSG_CTRUNC), int(socket.MSG_TRUNC)  # As enums they are slow.
_SIZE_BYTES = array.array("i").itemsize


def queued(fd: int, request: int) -> int:
    """Return what FIONREAD, or SIOCOUTQ, tells of a descriptor: bytes, see tcp(7) and unix(7).

    Raises OSError.
    """
    answer = array.array("i", [0])
    fcntl.ioctl(fd, request, answer)
    return answer[0]


def space(count: int) -> int:
    """Return the room for `count` descriptors that recvmsg(2) needs beside the data."""
    return socket.CMSG_SPACE(count * _SIZE_BYTES)


def attached(ancillary: Iterable[tuple[int, int, bytes]]) -> list[int]:
    """Return the descriptors that came with a message: SCM_RIGHTS, unix(7)."""
    fds = array.array("i")
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.frombytes(data[: len(data) - len(data) % _SIZE_BYTES])
    return fds.tolist()


@dataclass(frozen=True, slots=True)
class Received:
    """What has come over a Unix socket at a time."""

    data: bytes
    fds: list[int]
    is_cut: bool
    """Whether a message was longer than what was asked for."""
    ancillary: list[tuple[int, int, bytes]]


def look(sock: socket.socket, size: int, *, most: int, beside: int = 0) -> Received:
    """Return what comes next over a Unix socket, with its descriptors; it stays there.

    The kernel closes the descriptors that a receiver does not get, and has the receiver wait for
    that. So here they are looked at first, and are taken when all of them are known.

    `most` descriptors may come, an even number, and `beside` bytes of other ancillary data. Raises
    BlockingIOError when there is nothing, OSError (EMFILE) when there are too few descriptors, and
    `ProtocolError` when more than `most` have come.
    """
    data, ancillary, flags, _ = sock.recvmsg(
        size, space(most) + beside, socket.MSG_PEEK | socket.MSG_CMSG_CLOEXEC
    )
    fds = attached(ancillary) if ancillary else []
    if flags & _CTRUNC:
        is_too_much = len(fds) >= most
        close_all(fds)  # What is there still has the others: this takes no time.
        if is_too_much:
            raise ProtocolError(f"more than {most} descriptors at a time")
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
    return Received(data, fds, bool(flags & _TRUNC), ancillary)


def duplicates(descriptors: Iterable[int]) -> list[int]:
    """Return a duplicate of each. Raises OSError, and leaves none then."""
    made: list[int] = []
    try:
        for fd in descriptors:
            made.append(os.dup(fd))
    except OSError:
        close_all(made)
        raise
    return made


def require(count: int, *, like: int) -> None:
    """Make sure that `count` descriptors can be opened; `like` is one. Raises OSError (EMFILE)."""
    close_all(duplicates([like] * count))


class Borrowed:
    """A socket, in a `with`, of a descriptor that is its owner's, and stays open.

    No generator makes it, as that would cost more than what is asked of the socket.
    """

    __slots__ = ("_socket",)

    def __init__(self, fd: int, family: int = -1, kind: int = -1, protocol: int = -1) -> None:
        """Ask the kernel what is not given. Raises OSError when the descriptor is no socket.

        When all is given, that comes up only when something is done with it.
        """
        self._socket = socket.socket(family, kind, protocol, fd)

    def __enter__(self) -> socket.socket:
        return self._socket

    def __exit__(self, *_raised: object) -> None:
        self._socket.detach()


def is_connection(fd: int) -> bool:
    """Tell whether a descriptor is a stream socket that does not listen."""
    try:
        with Borrowed(fd) as sock:
            listens = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
            return sock.type == socket.SOCK_STREAM and not listens
    except OSError:
        return False


def has_peer(fd: int) -> bool:
    """Tell whether the peer of a connection is still there, and may send more: poll(2)."""
    poll = select.poll()
    poll.register(fd, select.POLLRDHUP)
    return not poll.poll(0)


def is_socket(fd: int) -> bool:
    """Tell whether a descriptor is a socket; no file system is asked, which may take long."""
    try:
        with Borrowed(fd):
            return True
    except OSError:
        return False


def close_all(descriptors: list[int] | deque[int]) -> None:
    """Close descriptors, and take them out of what holds them."""
    while descriptors:
        os.close(descriptors.pop())
