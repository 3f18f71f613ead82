"""Datagram sockets as systemd and the journal have them, with a reader that may be stuck."""

import contextlib
import socket
from collections.abc import Iterator
from pathlib import Path

FILLER = b"FILLER=1"


@contextlib.contextmanager
def receiver(path: Path) -> Iterator[socket.socket]:
    """Bind a socket that is not read, until the test does."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(path))
        sock.setblocking(False)
        yield sock


def fill(sock: socket.socket) -> None:
    """Send to a socket until it takes nothing more."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        sender.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                sender.sendto(FILLER, sock.getsockname())


def read(sock: socket.socket) -> list[bytes]:
    """Return all that waits in a socket, what `fill` has sent excepted."""
    found = []
    with contextlib.suppress(BlockingIOError):
        while True:
            found.append(sock.recv(64 * 1024))
    return [one for one in found if one != FILLER]
