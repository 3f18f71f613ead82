"""A connection that is to be closed while its client may still send.

A socket that is closed with something unread, or that gets more afterwards, resets its connection:
the kernel drops what the client has not got yet of the responses, tcp(7). So it is closed for
writing only, and read from until the client closes as well, RFC 9112, 9.6; or until nothing moves.
"""

import asyncio
import contextlib
import termios
from typing import Any

from sdcluster.system.descriptors import queued

SILENCE_S = 0.5
"""How long nothing may come, nor be acknowledged, before it is closed all the same."""
DEADLINE_S = 30.0
"""How long a client is read from that never ends."""


class Lingering(asyncio.BufferedProtocol):
    """The protocol of a connection from its last response to its end."""

    def __init__(
        self,
        transport: Any,
        fd: int,
        before: asyncio.BaseProtocol,
        *,
        scratch: memoryview,
        among: "set[Lingering]",
    ) -> None:
        """`before` was the transport's protocol; it is told of the connection's end.

        Until then this one is `among` the others. What comes is read to `scratch`, and dropped.
        """
        self._transport = transport
        self._fd = fd
        self._before = before
        self._scratch = scratch
        self._loop = loop = asyncio.get_running_loop()
        self._received = 0
        self._seen = self._progress()
        self._deadline = loop.time() + DEADLINE_S
        self._timer = loop.call_later(SILENCE_S, self._look)
        self._among = among
        among.add(self)
        try:
            transport.write_eof()
            transport.set_protocol(self)
            transport.resume_reading()
        except (OSError, RuntimeError):  # The client is gone already.
            transport.abort()

    @property
    def is_awaited(self) -> bool:
        """Whether the client has not got all that was written."""
        return self._progress()[1:] != (0, 0)

    def _look(self) -> None:
        if self._transport.is_closing():
            return
        seen, self._seen = self._seen, self._progress()
        if seen == self._seen or self._loop.time() >= self._deadline:
            self._transport.abort()
        else:
            self._timer = self._loop.call_later(SILENCE_S, self._look)

    def _progress(self) -> tuple[int, int, int]:
        """Return what changes while the client sends or receives."""
        unacknowledged = 0
        with contextlib.suppress(OSError):
            unacknowledged = queued(self._fd, termios.TIOCOUTQ)
        return self._received, unacknowledged, self._transport.get_write_buffer_size()

    def get_buffer(self, _sizehint: int) -> memoryview:
        """Return where to read to."""
        return self._scratch

    def buffer_updated(self, nbytes: int) -> None:
        """Drop what was read."""
        self._received += nbytes

    def eof_received(self) -> None:
        """Have the transport close: the client has all, or wants no more."""

    def pause_writing(self) -> None:
        """Ignore it: nothing more is written."""

    def resume_writing(self) -> None:
        """Ignore it."""

    def connection_lost(self, error: Exception | None) -> None:
        """End."""
        self._timer.cancel()
        self._among.discard(self)
        self._before.connection_lost(error)
