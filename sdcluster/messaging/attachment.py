"""The socket that a message may have with it: what can travel, and what has come.

The descriptor is duplicated when the message is queued, so the sender keeps its socket and may
close it at once. Who receives one owns it; it waits, or does not, as the sender's does.
"""

import os
import socket
import stat
import sys
from collections.abc import Callable
from typing import Protocol

from sdcluster.errors import ClusterError, ProtocolError, reason_of
from sdcluster.system.descriptors import close_all


class HasFileno(Protocol):
    """A socket, or what asyncio gives in its place."""

    def fileno(self) -> int:
        """Return the descriptor."""


def descriptor(connection: HasFileno) -> int:
    """Return what is to be sent of a connection. Raises `ClusterError` when it cannot travel."""
    ssl = sys.modules.get("ssl")  # Without it nobody has such a socket.
    if ssl is not None and isinstance(connection, ssl.SSLSocket):
        raise ClusterError("a TLS connection cannot be sent: its keys stay in this process")
    try:
        fd = connection.fileno()
        is_socket = stat.S_ISSOCK(os.fstat(fd).st_mode)
    except (AttributeError, TypeError):
        kind = type(connection).__name__
        raise ClusterError(f"a {kind} is no connection; send a socket") from None
    except OSError as error:
        raise ClusterError(f"cannot send this connection: {reason_of(error)}") from error
    if not is_socket:
        raise ClusterError(
            "only sockets can be sent; a listener of the cluster's is one of each worker's own: "
            "cluster.listen"
        )
    return fd


def received(
    descriptors: list[int], *, close: Callable[[list[int]], None] = close_all
) -> socket.socket | None:
    """Return the socket that has come with a message, and take it out of its descriptors.

    None when there is none. Raises `ProtocolError`, with all of them closed by `close`, when it is
    no socket or not alone.
    """
    if not descriptors:
        return None
    try:
        (fd,) = descriptors
        connection = socket.socket(fileno=fd)
    except (ValueError, OSError) as error:
        close(descriptors)
        raise ProtocolError("a message with what is not one connection") from error
    descriptors.clear()
    connection.setblocking(os.get_blocking(fd))  # The file is the sender's, and so are its flags.
    return connection
