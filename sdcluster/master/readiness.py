"""The NOTIFY_SOCKET that a worker command is given: the master in systemd's place. sd_notify(3)."""

import os
import socket
import struct
from pathlib import Path

from sdcluster import descriptors
from sdcluster.errors import ProtocolError
from sdcluster.wire import notify

_CREDENTIALS = 3 * 4  # struct ucred: pid, uid, gid, see unix(7).


class NotifySocket:
    """A datagram socket for one worker; who sends to it speaks for that worker."""

    def __init__(self, folder: Path, worker: int) -> None:
        """Create it in `folder`. Raises OSError."""
        self.path = str(folder / f"notify-{worker}")
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
            self._socket.setblocking(False)
            self._remove()
            self._socket.bind(self.path)
        except OSError:
            self._socket.close()
            raise

    def fileno(self) -> int:
        """Return the descriptor to watch."""
        return self._socket.fileno()

    def read(self) -> notify.Notification | None:
        """Return the next notification; None when there is none. Raises `ProtocolError`."""
        try:
            data, ancillary, flags, _ = self._socket.recvmsg(
                notify.MAX_DATAGRAM_BYTES,
                socket.CMSG_SPACE(_CREDENTIALS) + socket.CMSG_SPACE(64 * 4),
                socket.MSG_CMSG_CLOEXEC,
            )
        except BlockingIOError:
            return None
        descriptors.close_all(descriptors.attached(ancillary))
        if _sender_uid(ancillary) not in (0, os.geteuid()):
            raise ProtocolError("notification from another user")
        if flags & socket.MSG_TRUNC:
            raise ProtocolError(f"notification of more than {notify.MAX_DATAGRAM_BYTES} bytes")
        return notify.decode(data)

    def _remove(self) -> None:
        try:
            os.unlink(self.path)
        except FileNotFoundError:
            pass

    def close(self) -> None:
        """Close the socket and remove its path."""
        self._socket.close()
        self._remove()


def _sender_uid(ancillary: list[tuple[int, int, bytes]]) -> int | None:
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_CREDENTIALS:
            return int(struct.unpack("3i", data[:_CREDENTIALS])[1])
    return None
