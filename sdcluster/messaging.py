"""A message channel as either end has it: frames out without waiting, frames in as they come."""

import array
import errno
import socket
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sdcluster.descriptors import attached, close_all, duplicates, require, space
from sdcluster.errors import ProtocolError
from sdcluster.loops import READ, WRITE, EventLoop, Timer
from sdcluster.wire import messages
from sdcluster.wire.messages import Frame

HIGH_WATER_BYTES = 256 * 1024
"""What may wait for the other end to read before `send` says so."""
LIMIT_BYTES = 4 * messages.MAX_BODY_BYTES
"""What may wait at all."""
HIGH_WATER_DESCRIPTORS = 32
LIMIT_DESCRIPTORS = 256
"""The same of descriptors, as each of them is one of the process's own until it is sent."""
NO_ROOM_RETRY_S = 0.05
"""How long to wait when the kernel has no room for what the other end would take."""

_NO_ROOM = {errno.ETOOMANYREFS, errno.ENOBUFS, errno.ENOMEM}
_CHUNK_BYTES = 64 * 1024
_READS_PER_TURN = 8
_ANCILLARY_BYTES = space(64)


@dataclass(slots=True)
class _Piece:
    """What is still to be sent of one or more frames; only the first may have descriptors."""

    data: bytearray
    descriptors: list[int]
    """Sent with the first byte, and closed then."""


class Messenger:
    """One end of a message channel, on the loop that it is given.

    `on_frame` is told each frame, with its descriptors, which are the receiver's to close; what it
    raises as `ProtocolError` ends the channel, and closes those that are in the list still.
    `on_end` is told once that no more will come, with the reason when the other end broke the
    protocol; not after `close`. `on_drained` is told that everything has been passed on, after a
    `send` that returned False.
    """

    def __init__(
        self,
        sock: socket.socket,
        loop: EventLoop,
        *,
        on_frame: Callable[[Frame, list[int]], None],
        on_end: Callable[[str], None],
        on_drained: Callable[[], None] = lambda: None,
    ) -> None:
        self._sock = sock
        self._loop = loop
        self._on_frame = on_frame
        self._on_end = on_end
        self._on_drained = on_drained
        self._splitter = messages.Splitter()
        self._descriptors: deque[int] = deque()
        self._queue: deque[_Piece] = deque()
        self._waiting_bytes = 0
        self._waiting_descriptors = 0
        self._told_to_wait = False
        self._retry: Timer | None = None
        self._pause: Timer | None = None
        self._broken = False
        self.closed = False
        sock.setblocking(False)
        self._watch()

    @property
    def is_slow(self) -> bool:
        """Whether more waits for the other end than should: `send` returns False then."""
        return (
            self._waiting_bytes > HIGH_WATER_BYTES
            or self._waiting_descriptors > HIGH_WATER_DESCRIPTORS
        )

    @property
    def waiting_bytes(self) -> int:
        """How much the other end has not read yet, beside what the kernel holds."""
        return self._waiting_bytes

    def send(self, frame: Frame, descriptors: Sequence[int] = ()) -> bool:
        """Send a frame; its descriptors are duplicated and stay the caller's.

        Returns False when more waits than should: the caller is to slow down. Raises
        `ProtocolError` when the frame is too large, BrokenPipeError when nobody is there to
        read it, BlockingIOError when so much waits that this one is not taken, OSError when a
        descriptor cannot be duplicated.
        """
        assert len(descriptors) == frame.attached, "a frame announces what is attached to it"
        data = messages.encode(frame)
        self._require_reader()
        if self._waiting_bytes + len(data) > LIMIT_BYTES:
            raise BlockingIOError(f"{self._waiting_bytes} bytes wait to be read already")
        if descriptors and self._waiting_descriptors + len(descriptors) > LIMIT_DESCRIPTORS:
            raise BlockingIOError(f"{self._waiting_descriptors} descriptors wait already")
        self._append(data, duplicates(descriptors))
        if self._waiting_bytes == len(data):  # Else the queue is being waited for already.
            self._flush()
            self._require_reader()
            if self._queue:
                self._watch()
        self._told_to_wait = self._told_to_wait or self.is_slow
        return not self.is_slow

    def _require_reader(self) -> None:
        if self.closed or self._broken:
            raise BrokenPipeError(errno.EPIPE, "the other end is gone")

    def _append(self, data: bytes, descriptors: list[int]) -> None:
        self._waiting_bytes += len(data)
        self._waiting_descriptors += len(descriptors)
        if self._queue and not descriptors:
            self._queue[-1].data += data
        else:
            self._queue.append(_Piece(bytearray(data), descriptors))

    def _flush(self) -> None:
        while self._queue and self._retry is None:
            piece = self._queue[0]
            passed = []
            if piece.descriptors:
                rights = array.array("i", piece.descriptors)
                passed = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)]
            try:
                data = bytes(piece.data[:_CHUNK_BYTES])
                sent = self._sock.sendmsg([data], passed, socket.MSG_NOSIGNAL)
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno in _NO_ROOM:
                    self._retry = self._loop.call_later(NO_ROOM_RETRY_S, self._flush_again)
                else:
                    self._broken = True  # What it has sent before is read yet, and then the end.
                    self._drop_queue()
                return
            self._waiting_bytes -= sent
            self._waiting_descriptors -= len(piece.descriptors)
            close_all(piece.descriptors)
            del piece.data[:sent]
            if not piece.data:
                self._queue.popleft()

    def _flush_again(self) -> None:
        self._retry = None
        self._flush_and_tell()

    def _flush_and_tell(self) -> None:
        self._flush()
        self._watch()
        if self._told_to_wait and not self._queue and not self._broken:
            self._told_to_wait = False
            self._on_drained()

    def _watch(self) -> None:
        self._loop.remove(self._sock.fileno())
        is_writing = self._queue and self._retry is None
        events = READ * (self._pause is None) | WRITE * bool(is_writing)
        if events:
            self._loop.add(self._sock.fileno(), self._turn, events)

    def _turn(self) -> None:
        if self._queue and self._retry is None:
            self._flush_and_tell()
        for _ in range(_READS_PER_TURN):
            if self.closed or self._pause is not None or not self._has_room():
                return
            if self._read() < _CHUNK_BYTES:
                return  # What is left, if anything, makes the loop call again.

    def _has_room(self) -> bool:
        """Tell whether descriptors can come; if not, what is sent waits: they would be lost."""
        try:
            require(messages.MAX_ATTACHED, like=self._sock.fileno())
        except OSError:
            self._pause = self._loop.call_later(NO_ROOM_RETRY_S, self._read_again)
            self._watch()
            return False
        return True

    def _read_again(self) -> None:
        self._pause = None
        self._watch()

    def _read(self) -> int:
        """Read once, and tell what came; return how many bytes did."""
        try:
            data, ancillary, flags, _ = self._sock.recvmsg(
                _CHUNK_BYTES, _ANCILLARY_BYTES, socket.MSG_CMSG_CLOEXEC
            )
        except BlockingIOError:
            return 0
        except OSError:
            data, ancillary, flags = b"", [], 0
        self._descriptors.extend(attached(ancillary))
        if not data:
            self._end("")
            return 0
        try:
            _check_arrived(flags)
            self._tell_frames(data)
        except ProtocolError as error:
            self._end(str(error))
        return len(data)

    def read_rest(self) -> None:
        """Read what is there still: the other end is dead. Harmless when it is closed."""
        while not self.closed and self._read():
            pass

    def _tell_frames(self, data: bytes) -> None:
        for frame in self._splitter.feed(data):
            descriptors = self._take(frame.attached)
            try:
                self._on_frame(frame, descriptors)
            except ProtocolError:
                close_all(descriptors)
                raise
            if self.closed:
                return
        expected = messages.MAX_ATTACHED if self._splitter.is_within_frame else 0
        if len(self._descriptors) > expected:
            raise ProtocolError("descriptors that no message announces")

    def _take(self, count: int) -> list[int]:
        if count > len(self._descriptors):
            raise ProtocolError("descriptors are missing")
        return [self._descriptors.popleft() for _ in range(count)]

    def _end(self, reason: str) -> None:
        if not self.closed:
            self.close()
            self._on_end(reason)

    def _drop_queue(self) -> None:
        for piece in self._queue:
            close_all(piece.descriptors)
        self._queue.clear()
        self._waiting_bytes = self._waiting_descriptors = 0

    def close(self) -> None:
        """Close the channel. Harmless when it is closed."""
        if self.closed:
            return
        self.closed = True
        self._loop.remove(self._sock.fileno())
        for timer in (self._retry, self._pause):
            if timer is not None:
                timer.cancel()
        self._drop_queue()
        close_all(self._descriptors)
        self._sock.close()


def _check_arrived(flags: int) -> None:
    if flags & socket.MSG_CTRUNC:
        raise ProtocolError("descriptors did not arrive")
