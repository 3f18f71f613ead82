"""What the kernel has counted of a connection: how much was read from it, and written to it."""

import socket
import struct
import termios
from dataclasses import dataclass

from sdcluster.system.descriptors import queued

_INFO_BYTES = 192
_TOTALS = struct.Struct("=QQ")
_TOTALS_AT = 120
"""tcpi_bytes_acked and tcpi_bytes_received of tcp_info, linux/tcp.h."""
_ESTABLISHED = 1
_CLOSE_WAIT = 8
_ATTEMPTS = 16


@dataclass(frozen=True, slots=True)
class Counts:
    """Bytes since the connection was opened."""

    read: int
    """Taken out by whoever has had it."""
    written: int
    """Put in by whoever has had it, whether the peer has got it or not."""
    is_open: bool
    """Whether something can still be written: neither side has closed or reset it."""


def counts(connection: socket.socket) -> Counts | None:
    """Return the counts of a TCP connection that was accepted; None when there are none."""
    protocol = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PROTOCOL)
    if protocol != socket.IPPROTO_TCP:
        return None  # Of MPTCP, tcp_info is that of one of several paths.
    for _ in range(_ATTEMPTS):
        try:
            before = _info(connection)
            unread = queued(connection.fileno(), termios.FIONREAD)
            unsent = queued(connection.fileno(), termios.TIOCOUTQ)  # SIOCOUTQ, as far as is known.
            after = _info(connection)
        except OSError:
            return None
        if before is None:
            return None
        if before == after:  # Else something came in between.
            state, acknowledged, received = before
            # The end of what the peer sends counts as one byte, which nobody reads.
            return Counts(
                read=received - unread - (state == _CLOSE_WAIT),
                written=acknowledged + unsent,
                is_open=state in (_ESTABLISHED, _CLOSE_WAIT),
            )
    return None


def _info(connection: socket.socket) -> tuple[int, int, int] | None:
    """Return state, bytes that were acknowledged, and bytes that were received: tcp(7)."""
    info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _INFO_BYTES)
    if len(info) < _TOTALS_AT + _TOTALS.size:
        return None
    acknowledged, received = _TOTALS.unpack_from(info, _TOTALS_AT)
    return info[0], acknowledged, received
