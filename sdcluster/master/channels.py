"""A worker as the master reaches it: its control channel and its scoreboard.

The master keeps a duplicate of the worker's end of the channel. When the worker is dead, what it
has not taken is still in there and is taken back: no connection is lost between two processes.
"""

import array
import fcntl
import mmap
import os
import socket
from collections.abc import Sequence

from sdcluster.errors import ProtocolError
from sdcluster.wire import channel, notify
from sdcluster.wire.scoreboard import SIZE_BYTES, Field, Scoreboard

_ANCILLARY_BYTES = socket.CMSG_SPACE(channel.MAX_CONNECTIONS_PER_FRAME * array.array("i").itemsize)
SENSELESS = 1 << 32
"""More than any worker is given: it gets nothing more."""

_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL


class WorkerChannel:
    """The master's end of a worker's control channel, and the worker's scoreboard."""

    def __init__(self) -> None:
        """Create both. Raises OSError when the process is out of descriptors or memory."""
        self._board_fd = os.memfd_create("scoreboard", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            os.ftruncate(self._board_fd, SIZE_BYTES)
            # Sealed, as the master reads it: a page cut off by a worker would mean SIGBUS here.
            fcntl.fcntl(self._board_fd, fcntl.F_ADD_SEALS, _SEALS)
            self._page = mmap.mmap(self._board_fd, SIZE_BYTES)
            self._ours, self._theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        except OSError:
            os.close(self._board_fd)
            raise
        self._ours.setblocking(False)
        self.board = Scoreboard(self._page)
        self._sent = 0

    def fileno(self) -> int:
        """Return the descriptor to watch for notifications."""
        return self._ours.fileno()

    def descriptors(self) -> list[int]:
        """Return what the worker gets: its end of the channel, and the scoreboard."""
        return [self._theirs.fileno(), self._board_fd]

    def given(self) -> None:
        """The worker has its descriptors: close what the master has no use for."""
        if self._board_fd >= 0:
            os.close(self._board_fd)
            self._board_fd = -1

    def outstanding(self) -> int:
        """Return how many connections were given and not taken; `SENSELESS` if that cannot be."""
        taken = self.board.words[Field.TAKEN]
        return self._sent - taken if taken <= self._sent else SENSELESS

    def connections(self) -> int:
        """Return how many connections the worker has open."""
        return self.board.words[Field.CONNECTIONS]

    def give(self, connections: Sequence[int]) -> None:
        """Pass connections to the worker, which owns them from then on; the caller closes its own.

        Raises OSError when the channel is full or closed; none were passed then.
        """
        self._ours.sendmsg(
            [channel.CONNECTION * len(connections)],
            [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", connections))],
        )
        self._sent += len(connections)

    def ask_for_room(self, wanted: bool) -> None:
        """Have the worker say X_TAKEN=1 when it next takes connections, or no longer."""
        self.board[Field.WAITING] = int(wanted)

    def admit(self) -> None:
        """Let the worker accept from the listeners it holds."""
        try:
            self._ours.send(channel.ADMIT)
        except OSError:
            pass  # It has closed its end: its exit will be seen.

    def retire(self) -> None:
        """Say that no more connections will come: an end of file after the last one."""
        try:
            self._ours.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # Closed already.

    def read(self) -> notify.Notification | None:
        """Return the next notification, None when there is none. Raises `ProtocolError`."""
        try:
            data, ancillary, flags, _ = self._ours.recvmsg(
                notify.MAX_DATAGRAM_BYTES, socket.CMSG_SPACE(0), socket.MSG_CMSG_CLOEXEC
            )
        except (BlockingIOError, ConnectionResetError):
            return None
        close_descriptors(ancillary)
        if flags & socket.MSG_TRUNC:
            raise ProtocolError(f"notification of more than {notify.MAX_DATAGRAM_BYTES} bytes")
        if not data:
            # No end of file: the master holds a duplicate of the other end.
            raise ProtocolError("it has shut its channel down, or sent an empty frame")
        return notify.decode(data)

    def take_back(self) -> list[int]:
        """Return the connections that the worker, dead by now, has not taken."""
        self._theirs.setblocking(False)
        connections: list[int] = []
        while True:
            try:
                # Not socket.recv_fds, which ignores the flag.
                data, ancillary, _, _ = self._theirs.recvmsg(
                    channel.MAX_CONNECTIONS_PER_FRAME, _ANCILLARY_BYTES, socket.MSG_CMSG_CLOEXEC
                )
            except OSError:
                break
            connections.extend(_descriptors(ancillary))
            if not data:
                break
        self._sent -= len(connections)
        return connections

    def close(self) -> None:
        """Release everything."""
        self.given()
        self.board.release()
        self._page.close()
        self._ours.close()
        self._theirs.close()


def close_descriptors(ancillary: list[tuple[int, int, bytes]]) -> None:
    """Close descriptors that nobody asked for."""
    for fd in _descriptors(ancillary):
        os.close(fd)


def _descriptors(ancillary: list[tuple[int, int, bytes]]) -> list[int]:
    fds = array.array("i")
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.frombytes(data[: len(data) - len(data) % fds.itemsize])
    return fds.tolist()
