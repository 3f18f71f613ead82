"""A worker as the program in the master reaches it: what it knows of it, and may do with it.

What begins with an underscore is the primary's, which keeps it up to date.
"""

import asyncio
import signal
import socket
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from sdcluster.core.manual import Event, LeaveWanted
from sdcluster.core.states import ExitReason, WorkerId
from sdcluster.errors import ClusterError, ProtocolError, reason_of
from sdcluster.master.host import closing
from sdcluster.master.program.early_frames import EarlyFrames
from sdcluster.master.program.handlers import Handlers
from sdcluster.messaging import attachment, requests
from sdcluster.messaging.emitter import Emitter
from sdcluster.messaging.endpoint import Messenger
from sdcluster.messaging.requests import Requests, encode
from sdcluster.system.descriptors import close_all
from sdcluster.system.event_loop import AsyncLoop
from sdcluster.wire.messages import Frame, Kind

EVENTS = ("online", "listening", "message", "disconnect", "exit")


class _Inbox(Protocol):
    """Takes what workers say."""

    def received(self, worker: "Worker", frame: Frame, descriptors: list[int], /) -> None: ...

    def ended(self, worker: "Worker", reason: str, /) -> None: ...


class _Primary(Protocol):
    """What a worker needs of the master that has it."""

    loop: asyncio.AbstractEventLoop
    handlers: Handlers

    @property
    def inbox(self) -> _Inbox: ...

    def feed(self, event: Event, /) -> None: ...

    def kill(self, worker: "Worker", number: signal.Signals, /) -> None: ...


class Worker:
    """A worker as the master's program reaches it."""

    def __init__(self, primary: _Primary, number: int, environment: Mapping[str, str]) -> None:
        self.id = number
        self.pid = 0
        self.state = "none"
        """As in Node: `none`, `online`, `listening`, `disconnected`, `dead`.

        It is what the handlers have been told, one thing after the other.
        """
        self.exit_reason: ExitReason | None = None
        """Why it is gone; None while it is there."""
        self.exited_after_disconnect = False
        """Whether somebody wanted it to go: the program, or the worker itself."""
        self._primary = primary
        self._environment = environment
        self._stage = "none"
        """What `state` is when the handlers have been told of all that has happened."""
        self._emitter = Emitter(EVENTS, start=primary.handlers.start)
        self._ours, self._theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        self._messenger = Messenger(
            self._ours,
            AsyncLoop(primary.loop),
            on_frame=lambda frame, fds: primary.inbox.received(self, frame, fds),
            on_end=lambda reason: primary.inbox.ended(self, reason),
            on_drained=self._drained,
            close=closing.close,
            close_sent=close_all,  # At once: a listener that is closed is to be free then.
        )
        self._drains: list[asyncio.Future[None]] = []
        self._requests = Requests(self._send, self._send_soon)
        self._answers: set[asyncio.Task[Any]] = set()
        """What is at work on its requests."""
        self._early_frames = EarlyFrames()
        """What it has said and was not online."""
        self._early_signals: list[signal.Signals] = []
        """To be sent when it is online: before that it would ignore them."""
        self._signals: set[str] = set()
        """Those that the program has sent it."""
        self._ending: tuple[int | None, str | None] = (None, None)
        """Exit status and signal, as the kernel told them."""

    def __repr__(self) -> str:
        return f"<Worker {self.id} pid={self.pid} {self.state}>"

    @property
    def is_dead(self) -> bool:
        """Whether its process has ended, as the handlers of `exit` are told."""
        return self.state == "dead"

    @property
    def _has_ended(self) -> bool:
        """Whether its process has ended, whoever knows of it."""
        return self._stage == "dead"

    @property
    def is_connected(self) -> bool:
        """Whether messages reach it."""
        return not self._messenger.closed

    def on(self, event: str, *, once: bool = False) -> Callable[[Any], Any]:
        """Return a decorator for a handler of an event of this worker alone."""
        return self._emitter.on(event, once=once)

    def send(self, message: Any, connection: attachment.HasFileno | None = None) -> bool:
        """Send a message that JSON can express, and maybe a socket with it.

        The socket stays the caller's too, who may close it at once. Returns False when so much
        waits for the worker to read it that the caller should wait. Raises `ClusterError` when it
        cannot be sent.
        """
        descriptors = [] if connection is None else [attachment.descriptor(connection)]
        frame = Frame(Kind.MESSAGE, encode(message), attached=len(descriptors))
        return self._send(frame, descriptors)

    async def drain(self) -> None:
        """Wait until it has read enough for `send` to return True again, or is gone."""
        if not self._messenger.closed and self._messenger.is_slow:
            drained: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._drains.append(drained)
            await drained

    def _drained(self) -> None:
        drains, self._drains = self._drains, []
        for one in drains:
            if not one.done():
                one.set_result(None)

    async def request(self, message: Any, *, timeout_s: float = requests.DEFAULT_TIMEOUT_S) -> Any:
        """Ask it, and return the answer of its handler, see `cluster.on_request`.

        Raises `ClusterError` when there is none to come, TimeoutError when it does not come.
        """
        return await self._requests.ask(message, timeout_s=timeout_s)

    def _send(self, frame: Frame, descriptors: Sequence[int] = ()) -> bool:
        try:
            return self._messenger.send(frame, descriptors)
        except (ProtocolError, OSError) as error:
            raise ClusterError(f"cannot send to worker {self.id}: {reason_of(error)}") from error

    def _send_soon(self, frame: Frame) -> None:
        """Send a frame with others of this turn of the loop."""
        try:
            if self._messenger.gather(frame):
                self._primary.loop.call_soon(self._messenger.flush)
        except (ProtocolError, OSError) as error:
            raise ClusterError(f"cannot send to worker {self.id}: {reason_of(error)}") from error

    def _send_encoded(self, data: bytes) -> bool:
        try:
            return self._messenger.send_encoded(data)
        except OSError as error:
            raise ClusterError(f"cannot send to worker {self.id}: {reason_of(error)}") from error

    def disconnect(self) -> None:
        """Have it take no more connections, and exit when those it has are closed."""
        if self._has_ended:
            return
        self.exited_after_disconnect = True
        self._primary.feed(LeaveWanted(WorkerId(self.id)))

    def kill(self, number: int = signal.SIGTERM) -> None:
        """Send it a signal, as soon as it runs; harmless when it is dead."""
        self._primary.kill(self, signal.Signals(number))

    def _settle(self) -> None:
        """Take what it said last, and let go of it: it is dead."""
        self._messenger.read_rest()
        self._messenger.close()
        closing.close_socket(self._theirs)
        self._drained()
        self._requests.fail(f"worker {self.id} is gone")
        for task in self._answers:
            task.cancel()
        self._early_frames.close()
