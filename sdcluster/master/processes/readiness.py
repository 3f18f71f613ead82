"""The NOTIFY_SOCKET that a worker command is given: the master in systemd's place. sd_notify(3)."""

import os
import socket
import struct
from pathlib import Path

from sdcluster.errors import ProtocolError
from sdcluster.master.host import closing
from sdcluster.system import descriptors
from sdcluster.wire import notify

_CREDENTIALS = 3 * 4  # struct ucred: pid, uid, gid, see unix(7).
MAX_DESCRIPTORS = 64
"""What may come with a notification: systemd takes some, we do not."""


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
            before = os.umask(0o177)
            try:
                self._socket.bind(self.path)
            finally:
                os.umask(before)
        except OSError:
            self._socket.close()
            raise

    def fileno(self) -> int:
        """Return the descriptor to watch."""
        return self._socket.fileno()

    def read(self) -> notify.Notification | None:
        """Return the next notification; None when there is none.

        Raises `ProtocolError`, again and again for one with too many descriptors; and OSError when
        there are too few for those that come, which stay where they are.
        """
        try:
            found = descriptors.look(
                self._socket,
                notify.MAX_DATAGRAM_BYTES,
                most=MAX_DESCRIPTORS,
                beside=socket.CMSG_SPACE(_CREDENTIALS),
            )
            self._socket.recv(1)  # The whole datagram: what does not fit is dropped.
        except BlockingIOError:
            return None
        closing.close(found.fds)
        if _sender_uid(found.ancillary) not in (0, os.geteuid()):
            raise ProtocolError("notification from another user")
        if found.is_cut:
            raise ProtocolError(f"notification of more than {notify.MAX_DATAGRAM_BYTES} bytes")
        return notify.decode(found.data)

    def _remove(self) -> None:
        try:
            os.unlink(self.path)
        except FileNotFoundError:
            pass

    def close(self) -> None:
        """Close the socket and remove its path."""
        closing.close_socket(self._socket)
        self._remove()


def _sender_uid(ancillary: list[tuple[int, int, bytes]]) -> int | None:
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_CREDENTIALS:
            return int(struct.unpack("3i", data[:_CREDENTIALS])[1])
    return None
