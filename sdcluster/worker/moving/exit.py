"""The way out for connections: to the master, which passes them on to another worker.

Its channel may be full. Nobody waits for it but those who say so, each in its turn: as long as one
waits, none goes before it. The worker goes on meanwhile, and takes what the master sends: so two
workers whose channels are full of what is the other's never wait for each other.
"""

import array
import asyncio
import socket
from collections import OrderedDict
from collections.abc import Callable
from enum import Enum

from sdcluster.errors import ProtocolError
from sdcluster.wire.channel import Handoff, encode_handoff

RETRY_S = 0.01
"""When to try again what the kernel has no memory for, or too many descriptors under way."""


class Sent(Enum):
    """What became of a connection that was to go."""

    YES = "yes"
    FULL = "full"
    """The channel takes nothing now."""
    NEVER = "never"
    """There is nobody to give it to, or it cannot go."""


class Exit:
    """Gives connections to the master, as long as there is somebody to give them to."""

    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self._waiting: OrderedDict[asyncio.Future[Sent], Callable[[], Sent]] = OrderedDict()
        """What is tried for each who waits, the first one first."""
        self._is_first = False
        """Whether it is the first of them that sends at the moment."""
        self._is_watched = False
        """Whether the loop tells when the channel has room."""
        self.is_shut = False

    def send(self, fd: int, handoff: Handoff) -> Sent:
        """Give a descriptor to the master, if nobody waits to do so."""
        if self.is_shut:
            return Sent.NEVER
        if self._waiting and not self._is_first:
            return Sent.FULL
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [fd]))]
        try:
            self._control.sendmsg([encode_handoff(handoff)], rights, socket.MSG_NOSIGNAL)
        except (BrokenPipeError, ConnectionResetError):
            self.shut()  # The master is dead.
            return Sent.NEVER
        except ProtocolError:
            return Sent.NEVER
        except OSError:
            return Sent.FULL
        return Sent.YES

    async def send_in_turn(self, attempt: Callable[[], Sent], timeout_s: float) -> Sent:
        """Return what `attempt` comes to, which calls `send`, when there is room for it.

        That is `FULL` when there was none within `timeout_s`.
        """
        sent = attempt()
        if sent is not Sent.FULL:
            return sent
        loop = asyncio.get_running_loop()
        done: asyncio.Future[Sent] = loop.create_future()
        self._waiting[done] = attempt
        if len(self._waiting) == 1:
            self._watch()
        timer = loop.call_later(timeout_s, self._end, done, Sent.FULL)
        try:
            return await done
        finally:  # Also when who waits is cancelled.
            timer.cancel()
            self._waiting.pop(done, None)

    def _end(self, done: "asyncio.Future[Sent]", sent: Sent) -> None:
        self._waiting.pop(done, None)
        if not done.done():
            done.set_result(sent)

    def _watch(self) -> None:
        if self._waiting and not self._is_watched:
            self._is_watched = True
            asyncio.get_running_loop().add_writer(self._control, self._go_on)

    def _unwatch(self) -> None:
        if self._is_watched:
            self._is_watched = False
            asyncio.get_running_loop().remove_writer(self._control)

    def _go_on(self) -> None:
        """Let those who wait send, until the channel is full again."""
        has_sent = False
        while self._waiting:
            done, attempt = next(iter(self._waiting.items()))
            self._is_first = True
            sent = attempt()
            self._is_first = False
            if sent is Sent.FULL:
                if not has_sent:
                    # The channel has room: what is missing is memory, or descriptors in transit.
                    self._unwatch()
                    asyncio.get_running_loop().call_later(RETRY_S, self._watch)
                return
            has_sent = has_sent or sent is Sent.YES
            self._end(done, sent)
        self._unwatch()

    def shut(self) -> None:
        """Give it nothing more: there is nobody to give connections to."""
        self.is_shut = True
        while self._waiting:
            self._end(next(iter(self._waiting)), Sent.NEVER)
