"""File descriptors in numbers: those that came with a message, duplicates, and room for more.

Used by the master and by the workers; it needs the standard library alone.
"""

import array
import os
import select
import socket
from collections import deque
from collections.abc import Iterable

_SIZE_BYTES = array.array("i").itemsize


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


def is_connection(fd: int) -> bool:
    """Tell whether a descriptor is a stream socket that does not listen."""
    try:
        sock = socket.socket(fileno=fd)
    except OSError:
        return False
    try:
        listens = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
        return sock.type == socket.SOCK_STREAM and not listens
    finally:
        sock.detach()


def has_peer(fd: int) -> bool:
    """Tell whether the peer of a connection is still there, and may send more: poll(2)."""
    poll = select.poll()
    poll.register(fd, select.POLLRDHUP)
    return not poll.poll(0)


def close_all(descriptors: list[int] | deque[int]) -> None:
    """Close descriptors, and take them out of what holds them."""
    while descriptors:
        os.close(descriptors.pop())
