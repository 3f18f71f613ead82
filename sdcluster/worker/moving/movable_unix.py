"""A connection over a Unix socket that can go to another worker."""

import contextlib
import os
import socket
from typing import Any

from sdcluster.wire.channel import Handoff
from sdcluster.wire.ledger import NOT_KNOWN, Word
from sdcluster.worker.moving.backlog import Backlog
from sdcluster.worker.moving.movable import MovableConnection, Moves
from sdcluster.worker.moving.unix_counts import PIECE_BYTES, Peek

_LENGTH, _OUT_DONE = int(Word.LENGTH), int(Word.OUT_DONE)
_READING, _WRITING = int(Word.READING), int(Word.WRITING)
_SLOW_BYTES = 64 * 1024
"""What may wait to be written before the engine is told that the client is slow."""


class MovableUnixConnection(MovableConnection):
    """One whose bytes the kernel does not count: the ledger has how many were read and written."""

    __slots__ = ("_backlog", "_is_slow", "_peek", "_socket")

    is_unix = True

    def __init__(
        self, engine: Any, number: int, handoff: Handoff, moves: Moves, sock: socket.socket
    ) -> None:
        """`sock` is the transport's, and it is the transport that closes it."""
        super().__init__(engine, number, handoff, moves)
        self._socket = sock
        self._is_slow = False
        """Whether the engine was told so: here it is not the transport that tells it."""
        self._backlog: Backlog | None = None
        self._peek: Peek | None = None
        """None where what is read cannot be looked at first."""

    def _begin_with(self, transport: Any) -> None:
        transport.set_write_buffer_limits(0, 0)  # To be told when all is in the kernel.
        if self._limit:
            with contextlib.suppress(OSError):
                self._peek = Peek(self._socket)
        self._transport = self._backlog = Backlog(
            transport,
            self._fd,
            write=self._write_more,
            on_written=self.resume_writing,
            on_uncounted=self._count_no_more,
        )
        super()._begin_with(transport)

    def _end(self) -> None:
        if self._backlog is not None:
            self._backlog.stop()
            self._backlog = None
        super()._end()

    # What is read.

    def get_buffer(self, sizehint: int) -> memoryview:
        """Return where to read to, and have it known how much that will be."""
        room = super().get_buffer(sizehint)
        words, at, peek = self._words, self._at, self._peek
        if peek is None or self._length >= self._limit:
            words[at + _LENGTH] = NOT_KNOWN
            return room
        if words[at + _READING]:  # It was not read.
            peek.rewind()
        count = peek.look(room)
        if not count:
            words[at + _READING] = 0
            return room  # The end, or nothing.
        words[at + _READING] = self._length + count
        return room[:count]

    def buffer_updated(self, nbytes: int) -> None:
        """Take what was read."""
        words, at = self._words, self._at
        end = self._length + nbytes
        words[at + _LENGTH] = end
        reading = words[at + _READING]
        if reading:
            words[at + _READING] = 0
            if reading != end and self._peek is not None:
                self._peek.rewind()
        if self._is_behind:
            self._caught_up()
        super().buffer_updated(nbytes)

    def _keep_only(self, rest: bytes) -> None:
        super()._keep_only(rest)
        self._words[self._at + _LENGTH] = self._length

    # What is written.

    def _write_counted(self, data: bytes, meanwhile: int) -> int:
        """Write as much as there is room for, and have it known how much that is; return that."""
        if len(data) <= PIECE_BYTES:
            return self._write_piece(data, self._written, meanwhile)
        size, sent, view = len(data), 0, memoryview(data)
        while sent < size:
            piece = view[sent : sent + PIECE_BYTES]
            count = self._write_more(piece, size - sent - len(piece))
            sent += count
            if count < len(piece):
                break
        return sent

    def _write_more(self, data: bytes | memoryview, left: int) -> int:
        """Write what is before the last `left` bytes that are to be written."""
        return self._write_piece(data, self._written - left, NOT_KNOWN)

    def _write_piece(self, data: bytes | memoryview, end: int, meanwhile: int) -> int:
        """`end` is how much is written, ever, when all of it is."""
        words, at, size, pipe = self._words, self._at, len(data), self._moves.pipe
        if pipe is not None and pipe.fill(data):
            words[at + _WRITING] = end
            sent = pipe.pour(self._fd, size)
            words[at + _OUT_DONE] = end - size + sent
            words[at + _WRITING] = 0
            if sent < size:
                pipe.drain(size)
            return sent
        words[at + _OUT_DONE] = meanwhile
        try:
            sent = os.write(self._fd, data)
        except OSError:
            sent = 0  # Full; or broken, which the transport will find.
        words[at + _OUT_DONE] = end - size + sent
        return sent

    def _count_no_more(self) -> None:
        self._words[self._at + _OUT_DONE] = NOT_KNOWN

    def _write_later(self, rest: bytes) -> None:
        super()._write_later(rest)
        self._caught_up()
        if not self._is_slow and self._transport.get_write_buffer_size() > _SLOW_BYTES:
            self._is_slow = True
            self._engine.pause_writing()

    def pause_writing(self) -> None:
        """Say nothing: see `_write_later`."""

    def resume_writing(self) -> None:
        """Pass on that the client has caught up."""
        self._caught_up()
        if self._is_slow:
            self._is_slow = False
            self._engine.resume_writing()

    def _caught_up(self) -> None:
        """Note that all is in the kernel, if it is."""
        if self._is_behind and not self._is_gone and not self._transport.get_write_buffer_size():
            self._is_behind = False
            self._words[self._at + _OUT_DONE] = self._written

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Leave them as they are."""
