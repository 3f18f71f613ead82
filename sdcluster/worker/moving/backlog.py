"""What a Unix socket had no room for: it is written as there is room, and counted.

A loop's transport would write it as well, but nobody could tell after the worker's death how far it
had come. So this stands in front of the transport, and waits for room with a descriptor of its own:
a loop lets nobody else wait for its transport's.
"""

import asyncio
import os
from collections.abc import Callable
from typing import Any

from sdcluster.worker.moving.unix_counts import PIECE_BYTES


class Backlog:
    """A transport that writes by itself, and else does what the loop's does."""

    def __init__(
        self,
        transport: Any,
        fd: int,
        *,
        write: Callable[[bytes, int], int],
        on_written: Callable[[], object],
        on_uncounted: Callable[[], object],
    ) -> None:
        """`fd` is the socket's. `write` is given what is to be written, and how much is left then.

        It returns how much was written. `on_written` is called when nothing is left, and
        `on_uncounted` before the transport is to write, as nothing else can.
        """
        self._transport = transport
        self.is_closing: Callable[[], bool] = transport.is_closing
        self._fd = fd
        self._write = write
        self._on_written = on_written
        self._on_uncounted = on_uncounted
        self._loop = asyncio.get_running_loop()
        self._waiting = bytearray()
        self._watched = -1

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        """Write as soon as there is room, and all before is written."""
        if self._transport.get_write_buffer_size():
            self._transport.write(data)
            return
        self._waiting += data
        if self._watched < 0:
            try:
                self._watched = os.dup(self._fd)
            except OSError:
                self._leave()
            else:
                self._loop.add_writer(self._watched, self._go_on)

    def _go_on(self) -> None:
        piece = bytes(self._waiting[:PIECE_BYTES])
        sent = self._write(piece, len(self._waiting) - len(piece))
        if not sent:
            self._leave()  # It is broken, which the transport will find.
            return
        del self._waiting[:sent]
        if not self._waiting:
            self.stop()
            self._on_written()

    def _leave(self) -> None:
        """Leave what is to be written to the transport."""
        data = bytes(self._waiting)
        self.stop()
        if data:
            self._on_uncounted()
            self._transport.write(data)

    def stop(self) -> None:
        """Write no more."""
        self._waiting.clear()
        if self._watched >= 0:
            self._loop.remove_writer(self._watched)
            os.close(self._watched)
            self._watched = -1

    def get_write_buffer_size(self) -> int:
        """Return how many bytes are not written yet."""
        return len(self._waiting) + int(self._transport.get_write_buffer_size())

    def write_eof(self) -> None:
        """Say that no more is written, after all that is."""
        self._leave()
        self._transport.write_eof()

    def close(self) -> None:
        """Close when all is written."""
        self._leave()
        self._transport.close()

    def abort(self) -> None:
        """Close at once."""
        self.stop()
        self._transport.abort()
