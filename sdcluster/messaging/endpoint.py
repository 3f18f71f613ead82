"""A message channel as either end has it: frames out without waiting, frames in as they come."""

import array
import contextlib
import errno
import socket
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sdcluster.errors import ProtocolError
from sdcluster.system.descriptors import NO_ROOM, close_all, duplicates, look
from sdcluster.system.event_loop import READ, WRITE, EventLoop, Timer
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

_CHUNK_BYTES = 64 * 1024
_KNOWN = bytearray(_CHUNK_BYTES)
"""What was looked at before is read into it, by whoever reads, and is of no more use."""
_READS_PER_TURN = 8
_READS_AT_END = 1024
"""More than what a socket holds takes, with a descriptor in each piece."""


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

    The loop's thread does everything but `send` and `read`, which any may call when `in_loop` is
    given: it runs a function in the loop's thread, at once or later. `after_reading` is called, by
    the one that reads, when what has come in one turn of its loop has been told. `close` closes
    descriptors, those that have come and the socket, which may take long; `close_sent` closes the
    duplicates of those that were sent, as `close` does where it is not given.
    """

    def __init__(
        self,
        sock: socket.socket,
        loop: EventLoop,
        *,
        on_frame: Callable[[Frame, list[int]], None],
        on_end: Callable[[str], None],
        on_drained: Callable[[], None] = lambda: None,
        in_loop: Callable[[Callable[[], None]], object] = lambda function: function(),
        after_reading: Callable[[], None] = lambda: None,
        close: Callable[[list[int] | deque[int]], None] = close_all,
        close_sent: Callable[[list[int] | deque[int]], None] | None = None,
    ) -> None:
        self._sock = sock
        self._loop = loop
        self._on_frame = on_frame
        self._on_end = on_end
        self._on_drained = on_drained
        self._in_loop = in_loop
        self._after_reading = after_reading
        self._close = close
        self._close_sent = close_sent or close
        self._lock = threading.RLock()
        """Held for what is to be sent; never while anybody is told."""
        self._read_lock = threading.RLock()
        """Held while frames are read and told: they are told in the order in which they come."""
        self._is_reading = True
        self._is_sending = False
        self._interjected: deque[tuple[bytes, list[int]]] = deque()
        """Sent by a signal handler that has interrupted a `send`."""
        self._gathered = bytearray()
        self._told_at_once = 0
        """Frames that came when the channel was read last."""
        self._splitter = messages.Splitter()
        self._descriptors: deque[int] = deque()
        self._queue: deque[_Piece] = deque()
        self._waiting_bytes = 0
        self._waiting_descriptors = 0
        self._told_to_wait = False
        self._has_room = True
        self._retry: Timer | None = None
        self._pause: Timer | None = None
        self._broken = False
        self._ended = False
        self.closed = False
        self.lacks_descriptors = False
        """Whether nothing is read, as what comes with it could not be taken."""
        self.is_read_elsewhere = False
        """Whether another loop has been given the descriptor, which stays its number then."""
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
        return self._waiting_bytes + len(self._gathered)

    def send(self, frame: Frame, descriptors: Sequence[int] = ()) -> bool:
        """Send a frame; its descriptors are duplicated and stay the caller's.

        Returns False when more waits than should: the caller is to slow down. Raises
        `ProtocolError` when the frame is too large, BrokenPipeError when nobody is there to
        read it, BlockingIOError when so much waits that this one is not taken, OSError when a
        descriptor cannot be duplicated.
        """
        assert len(descriptors) == frame.attached, "a frame announces what is attached to it"
        return self.send_encoded(messages.encode(frame), descriptors)

    def send_encoded(self, data: bytes, descriptors: Sequence[int] = ()) -> bool:
        """As `send`, with a frame that has been encoded: that of a broadcast is so once."""
        with self._lock:
            if self._is_sending:
                self._require_reader()
                self._interjected.append((data, duplicates(descriptors)))
                return True
            self._is_sending = True
            try:
                if self._gathered:
                    self._send_gathered()
                return self._send(data, descriptors)
            finally:
                self._end_sending()

    def gather(self, frame: Frame) -> bool:
        """Take a frame that goes when `flush` is called, or before the next that is sent.

        Many of them cost one system call, and wake the other end once. Returns whether `flush` is
        still to be called. When frames do not come in numbers, this one is sent at once. Raises
        as `send`.
        """
        data = messages.encode(frame)
        with self._lock:
            if self._told_at_once < 2 or self._queue or self._is_sending:
                self.send_encoded(data)
                return False
            self._require_reader()
            self._gathered += data
            if len(self._gathered) >= _CHUNK_BYTES:
                self.flush()
                return False
            return len(self._gathered) == len(data)

    def flush(self) -> None:
        """Send what has been gathered. Harmless when there is nothing."""
        with self._lock:
            if not self._gathered or self._is_sending:
                return
            self._is_sending = True
            try:
                self._send_gathered()
            finally:
                self._end_sending()

    def _send_gathered(self) -> None:
        data = bytes(self._gathered)
        self._gathered.clear()
        with contextlib.suppress(OSError):  # The end of the channel tells those who sent it.
            self._send(data, ())

    def _end_sending(self) -> None:
        self._is_sending = False
        while self._interjected:
            self._send_interjected(*self._interjected.popleft())

    def _send_interjected(self, data: bytes, descriptors: list[int]) -> None:
        try:
            with contextlib.suppress(OSError):  # Its sender is not there any more to be told.
                self._send(data, descriptors)
        finally:
            self._close(descriptors)

    def _send(self, data: bytes, descriptors: Sequence[int]) -> bool:
        self._require_reader()
        if not self._queue and not descriptors:
            data = self._send_at_once(data)
            if not data:
                return True
        if self._waiting_bytes + len(data) > LIMIT_BYTES:
            raise BlockingIOError(f"{self._waiting_bytes} bytes wait to be read already")
        if descriptors and self._waiting_descriptors + len(descriptors) > LIMIT_DESCRIPTORS:
            raise BlockingIOError(f"{self._waiting_descriptors} descriptors wait already")
        self._append(data, duplicates(descriptors))
        if self._waiting_bytes == len(data):  # Else the queue is being waited for already.
            self._flush()
            self._require_reader()
            if self._queue:
                self._in_loop(self._watch)
        self._told_to_wait = self._told_to_wait or self.is_slow
        return not self.is_slow

    def _send_at_once(self, data: bytes) -> bytes:
        """Send what the kernel takes; return the rest."""
        try:
            sent = self._sock.sendmsg([data], (), socket.MSG_NOSIGNAL)
        except OSError:
            return data  # It is tried again, and the reason is looked at.
        return data[sent:]

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
        while self._queue and self._has_room:
            piece = self._queue[0]
            passed = []
            if piece.descriptors:
                rights = array.array("i", piece.descriptors)
                passed = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)]
            try:
                with memoryview(piece.data) as whole, whole[:_CHUNK_BYTES] as data:
                    sent = self._sock.sendmsg([data], passed, socket.MSG_NOSIGNAL)
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno in NO_ROOM:
                    self._has_room = False
                    self._in_loop(self._wait_for_room)
                else:
                    self._broken = True  # What it has sent before is read yet, and then the end.
                    self._drop_queue()
                return
            self._waiting_bytes -= sent
            self._waiting_descriptors -= len(piece.descriptors)
            self._close_sent(piece.descriptors)
            del piece.data[:sent]
            if not piece.data:
                self._queue.popleft()

    def _wait_for_room(self) -> None:
        if not self.closed:
            self._retry = self._loop.call_later(NO_ROOM_RETRY_S, self._flush_again)

    def _flush_again(self) -> None:
        self._retry = None
        self._has_room = True
        self._flush_and_tell()

    def _flush_and_tell(self) -> None:
        with self._lock:
            self._flush()
            self._watch()
            is_drained = self._told_to_wait and not self._queue and not self._broken
            if is_drained:
                self._told_to_wait = False
        if is_drained:
            self._on_drained()

    def _watch(self) -> None:
        if self.closed:
            return  # Meanwhile.
        self._loop.remove(self._sock.fileno())
        is_writing = self._queue and self._has_room
        events = READ * (self._is_reading and not self.lacks_descriptors) | WRITE * bool(is_writing)
        if events:
            self._loop.add(self._sock.fileno(), self._turn, events)

    def watch_reading(self, wanted: bool) -> None:
        """Have the loop read, or not: another one calls `read` when there is something."""
        if wanted != self._is_reading:
            self._is_reading = wanted
            with self._lock:
                self._watch()

    def fileno(self) -> int:
        """Return the descriptor of the channel; -1 when it is closed."""
        return self._sock.fileno()

    def _turn(self) -> None:
        if self._queue and self._has_room:
            self._flush_and_tell()
        self.read()

    def read(self) -> None:
        """Read what is there, or a part when that is much, and tell it."""
        with self._read_lock:
            self._told_at_once = 0
            for _ in range(_READS_PER_TURN):
                if self._is_over() or self.lacks_descriptors or self._read() < _CHUNK_BYTES:
                    break  # What is left, if anything, makes the loop call again.
        self._after_reading()

    def _is_over(self) -> bool:
        return self._ended or self.closed

    def _pause_reading(self) -> None:
        if not self.closed:
            self._pause = self._loop.call_later(NO_ROOM_RETRY_S, self._read_again)
            self._watch()

    def _read_again(self) -> None:
        self._pause = None
        self.lacks_descriptors = False
        self._watch()

    def _read(self) -> int:
        """Read once, and tell what came; return how many bytes did."""
        try:
            piece = look(self._sock, _CHUNK_BYTES, most=messages.MAX_ATTACHED)
            if piece.data:
                self._sock.recv_into(_KNOWN, len(piece.data))
        except BlockingIOError:
            return 0
        except ProtocolError as error:
            self._end(str(error))
            return 0
        except OSError as error:
            if error.errno == errno.EMFILE:
                self.lacks_descriptors = True  # What was sent waits: they would be lost.
                self._in_loop(self._pause_reading)
            else:
                self._end("")
            return 0
        data = piece.data
        if piece.fds:
            self._descriptors.extend(piece.fds)
        if not data:
            self._end("")
            return 0
        try:
            self._tell_frames(data)
        except ProtocolError as error:
            self._end(str(error))
        return len(data)

    def read_rest(self) -> None:
        """Read what is there still: the other end is dead. Harmless when it is closed."""
        with self._read_lock:
            for _ in range(_READS_AT_END):  # A child of it, which lives on, may write for ever.
                if self._is_over() or not self._read():
                    return

    def _tell_frames(self, data: bytes) -> None:
        for frame in self._splitter.feed(data):
            descriptors = self._take(frame.attached) if frame.attached else []
            try:
                self._on_frame(frame, descriptors)
            except ProtocolError:
                self._close(descriptors)
                raise
            self._told_at_once += 1
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
        self._ended = True
        self._in_loop(lambda: self._finish(reason))

    def _finish(self, reason: str) -> None:
        if not self.closed:
            self.close()
            self._on_end(reason)

    def _drop_queue(self) -> None:
        for piece in self._queue:
            self._close(piece.descriptors)
        self._queue.clear()
        self._gathered.clear()
        self._waiting_bytes = self._waiting_descriptors = 0

    def close(self) -> None:
        """Close the channel. Harmless when it is closed."""
        with self._read_lock, self._lock:
            if self.closed:
                return
            self.closed = True
            self._loop.remove(self._sock.fileno())
            for timer in (self._retry, self._pause):
                if timer is not None:
                    timer.cancel()
            self._drop_queue()
            self._close(self._descriptors)
            if not self.is_read_elsewhere:
                self._close([self._sock.detach()])
                return
            with contextlib.suppress(OSError):
                self._sock.shutdown(socket.SHUT_RDWR)  # So that the other loop looks, and lets go.
