"""The orders of a mold, each of which a process of its own carries out and answers.

A page of memory that the mold writes to, and a worker as well, is their keeper's alone from then
on. So order and answer are in memory that the mold shares with that process, and the mold passes on
what it does not look at. Only when the process has died does it read the order.
"""

import errno
import mmap
import os
import socket

from sdcluster.system.descriptors import attached, close_all, space
from sdcluster.wire import frames

MAX_DESCRIPTORS = 250
_WORD_BYTES = 8
# Numbers, as to combine enumerations writes to fifty pages of memory.
_CLOEXEC_DONTWAIT = int(socket.MSG_CMSG_CLOEXEC | socket.MSG_DONTWAIT)
_CTRUNC = int(socket.MSG_CTRUNC)
_ORDER_LENGTH, _ANSWER_LENGTH = 0, 1


class Orders:
    """What comes on the mold's channel, one order at a time."""

    def __init__(self, channel: socket.socket) -> None:
        """Raises OSError."""
        self._channel = channel
        size = frames.MAX_FRAME_BYTES
        self._map = mmap.mmap(-1, mmap.PAGESIZE + 2 * size)
        self._map.madvise(mmap.MADV_DONTDUMP)  # The environment of a worker is none of another's.
        shared = memoryview(self._map)
        self._lengths = shared[: 2 * _WORD_BYTES].cast("Q")
        self._order = shared[mmap.PAGESIZE : mmap.PAGESIZE + size]
        self._answer = shared[mmap.PAGESIZE + size :]
        shared.release()

    def wait(self) -> bool:
        """Wait for the next order; False at the end of the channel. Raises OSError."""
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
        if self._is_untaken():
            close_all(self._receive()[1])
        self._channel.send(
            frames.encode(frames.ForkFailed(worker=self.order().worker, reason=reason))
        )

    def _is_untaken(self) -> bool:
        """Tell whether the order is still there. No two are alike: each is for another worker."""
        try:
            flags = socket.MSG_PEEK | socket.MSG_DONTWAIT
            there = self._channel.recv(frames.MAX_FRAME_BYTES, flags)
        except BlockingIOError:
            return False
        return there == self._order[: self._lengths[_ORDER_LENGTH]]

    def order(self) -> frames.Fork:
        """Return the order that was waited for, taken or not."""
        return decode(bytes(self._order[: self._lengths[_ORDER_LENGTH]]))

    # In the process that carries it out.

    def take(self) -> tuple[bytes, list[int]]:
        """Return the order that was waited for, as `decode` takes it, and its descriptors.

        Raises OSError when not all of these could be opened; it is taken all the same.
        """
        data, descriptors, are_all = self._receive()
        if not are_all:
            close_all(descriptors)
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return data, descriptors

    def _receive(self) -> tuple[bytes, list[int], bool]:
        # Not socket.recv_fds, which ignores the flag. Nor is an order waited for that is there.
        data, ancillary, flags, _ = self._channel.recvmsg(
            self._lengths[_ORDER_LENGTH],
            space(MAX_DESCRIPTORS),
            _CLOEXEC_DONTWAIT,
        )
        return data, attached(ancillary), not flags & _CTRUNC

    def answer(self, report: frames.Report) -> None:
        """Have the mold send a report, when this process has ended."""
        data = frames.encode(report)
        self._answer[: len(data)] = data
        self._lengths[_ANSWER_LENGTH] = len(data)

    # In the process that was ordered.

    def close(self) -> None:
        """Let go of the channel, and of what is shared with the mold."""
        self._channel.close()
        for view in (self._lengths, self._order, self._answer):
            view.release()
        self._map.close()


def decode(data: bytes) -> frames.Fork:
    """Read an order to fork."""
    order = frames.decode_order(data)
    assert isinstance(order, frames.Fork)
    return order
