"""The orders of a mold, each of which a process of its own carries out and answers.

Each page that the mold writes to after it has forked a keeper is the keeper's alone from then on.
So order and answer are in memory that the mold and its children share, and the mold passes on what
it does not look at. Only when the process has died does it read the order.
"""

import mmap
import socket

from sdcluster.descriptors import attached, close_all, space
from sdcluster.wire import frames

MAX_DESCRIPTORS = 250
_WORD_BYTES = 8
_ORDER_LENGTH, _ANSWER_LENGTH = 0, 1


class Orders:
    """What comes on the mold's channel, one order at a time."""

    def __init__(self, channel: socket.socket) -> None:
        """Raises OSError."""
        self._channel = channel
        size = frames.MAX_FRAME_BYTES
        shared = memoryview(mmap.mmap(-1, mmap.PAGESIZE + 2 * size))
        self._lengths = shared[: 2 * _WORD_BYTES].cast("Q")
        self._order = shared[mmap.PAGESIZE : mmap.PAGESIZE + size]
        self._answer = shared[mmap.PAGESIZE + size :]

    # In the mold.

    def wait(self) -> bool:
        """Wait for the next order; False when there will be none. Raises OSError likewise."""
        length = self._channel.recv_into(self._order, 0, socket.MSG_PEEK)
        self._lengths[_ORDER_LENGTH] = length
        self._lengths[_ANSWER_LENGTH] = 0
        return length > 0

    def pass_on(self) -> bool:
        """Send the answer to the master; False if there is none. Raises OSError."""
        length = self._lengths[_ANSWER_LENGTH]
        if not length:
            return False
        self._channel.send(self._answer[:length])
        return True

    def fail(self, reason: str) -> None:
        """Answer an order that nobody has carried out. Raises OSError."""
        data = bytes(self._order[: self._lengths[_ORDER_LENGTH]])
        if self._is_there(data):
            close_all(self.take()[1])
        order = frames.decode_order(data)
        assert isinstance(order, frames.Fork)
        self._channel.send(frames.encode(frames.ForkFailed(worker=order.worker, reason=reason)))

    def _is_there(self, data: bytes) -> bool:
        """Tell whether the order was not taken. No two are alike: each is for another worker."""
        try:
            flags = socket.MSG_PEEK | socket.MSG_DONTWAIT
            return self._channel.recv(frames.MAX_FRAME_BYTES, flags) == data
        except BlockingIOError:
            return False

    # In the process that carries it out.

    def take(self) -> tuple[bytes, list[int]]:
        """Return the order that was waited for, and its descriptors. Raises OSError."""
        # Not socket.recv_fds, which ignores the flag.
        data, ancillary, _, _ = self._channel.recvmsg(
            self._lengths[_ORDER_LENGTH], space(MAX_DESCRIPTORS), socket.MSG_CMSG_CLOEXEC
        )
        return data, attached(ancillary)

    def answer(self, report: frames.Report) -> None:
        """Have the mold send a report, when this process has ended."""
        data = frames.encode(report)
        self._answer[: len(data)] = data
        self._lengths[_ANSWER_LENGTH] = len(data)
