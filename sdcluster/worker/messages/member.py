"""A process that takes part in a cluster by messages: what a worker is to the code that runs in it.

Workers of a program (`program_worker`), workers of a service (`service`) and the agent differ in
who runs the loop that the channel to the master is on, and in whom they speak to.
"""

import asyncio
import contextlib
import logging
import os
import socket
import threading
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, TypeVar

from sdcluster.errors import ClusterError, ProtocolError, reason_of
from sdcluster.messaging import attachment, requests
from sdcluster.messaging.emitter import Emitter
from sdcluster.messaging.endpoint import Messenger
from sdcluster.messaging.requests import Requests, decode, encode
from sdcluster.system.descriptors import close_all
from sdcluster.system.event_loop import AsyncLoop
from sdcluster.wire import cache_url
from sdcluster.wire.messages import ALL, MASTER, Frame, Kind, refusal
from sdcluster.worker.messages.postbox import EarlyMessages

if TYPE_CHECKING:
    from sdcluster.messaging.machines import Everywhere

FLUSH_INTERVAL_S = 0.01

T = TypeVar("T")

logger = logging.getLogger("sdcluster")


class Member:
    """One end of the messages. Any thread may use it."""

    events: tuple[str, ...] = ("message",)

    def __init__(self, number: int = 0) -> None:
        """It can be made before there is a process for it: a mold has its handlers added so."""
        self.id = number
        self.pid = os.getpid()
        self.exited_after_disconnect = False
        self.is_leaving = False
        self._emitter = Emitter(self.events, start=self._start)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        """The one that runs the loop."""
        self._app_loop: asyncio.AbstractEventLoop | None = None
        self._app_thread = 0
        """The one that runs that."""
        self._messenger: Messenger | None = None
        self._requests = Requests(self._send, self._send_soon)
        self._answerer: Callable[..., Any] | None = None
        self._tasks: set[asyncio.Task[Any]] = set()
        self._drains: list[Future[None]] = []
        self._paused: set[int] = set()
        """Peers that the master waits for."""
        self._everywhere: Everywhere | None = None
        self._hears_everywhere = False
        self._early = EarlyMessages()
        self._order = threading.Lock()
        self._inbox: deque[tuple[Callable[..., object], tuple[Any, ...]]] = deque()
        """What is to be called where the program's handlers run."""
        self._woken: asyncio.AbstractEventLoop | None = None
        """The loop that is about to look there."""

    @property
    def name(self) -> str:
        """What messages for people call it."""
        return f"worker {self.id}" if self.id else "a worker"

    @property
    def is_connected(self) -> bool:
        """Whether messages reach the master."""
        messenger = self._messenger
        return messenger is not None and not messenger.closed and os.getpid() == self.pid

    @property
    def is_dead(self) -> bool:
        """Whether its process has ended, as the master's program may ask: this one has not."""
        return False

    @property
    def agent(self) -> Any:
        """The agent. Raises `ClusterError` where there is none."""
        raise ClusterError("a program has no agent; its workers reach its master: cluster.worker")

    def _join(self, channel: socket.socket, loop: asyncio.AbstractEventLoop) -> None:
        """Take part from now on, in the loop that runs, which is the one of the handlers too."""
        self._thread = threading.current_thread()
        self._loop = self._app_loop = loop
        self._app_thread = threading.get_ident()
        self._begin(channel)

    def _begin(self, channel: socket.socket) -> None:
        """Listen to the master; called in the loop."""
        assert self._loop is not None
        self.pid = os.getpid()
        self._hear_everywhere()
        self._messenger = Messenger(
            channel,
            AsyncLoop(self._loop),
            on_frame=self._received,
            on_end=lambda _: self._deserted(),
            on_drained=self._drained,
            in_loop=self._in_own_loop,
            after_reading=self._after_reading,
        )

    def _after_reading(self) -> None:
        """Call what has come, at once where the handlers run, which this may be or not."""
        if not self._inbox:
            return
        loop, here = self._app_loop, threading.get_ident()
        if loop is None or loop.is_closed():
            loop, is_here = self._loop, self._thread is not None and here == self._thread.ident
        else:
            is_here = here == self._app_thread
        if is_here:
            self._run_inbox()
        else:
            self._wake()

    def _in_own_loop(self, function: Callable[[], object]) -> None:
        """Run a function in the thread that speaks to the master, now or later."""
        if threading.current_thread() is self._thread:
            function()
            return
        assert self._loop is not None
        with contextlib.suppress(RuntimeError):  # It has just been closed.
            self._loop.call_soon_threadsafe(function)

    def _reachable(self) -> Messenger:
        """Return the channel, which any thread may send on. Raises `ClusterError`."""
        if self._messenger is None:
            raise ClusterError("nothing can be sent yet: the app is being imported")
        self._require_own_process()
        return self._messenger

    def _call(self, function: Callable[[], T]) -> T:
        """Run a function in the thread that speaks to the master, and return its result."""
        if self._loop is None:
            raise ClusterError("nothing can be sent yet: the app is being imported")
        self._require_own_process()
        if threading.current_thread() is self._thread:
            return function()
        future: Future[T] = Future()

        def run() -> None:
            try:
                future.set_result(function())
            except BaseException as error:
                future.set_exception(error)

        self._loop.call_soon_threadsafe(run)
        return future.result()

    def _require_own_process(self) -> None:
        if self._loop is not None and os.getpid() != self.pid:
            raise ClusterError(f"this process is not {self.name}, but was forked by it")

    # Events.

    def on(
        self, event: str, *, once: bool = False
    ) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
        """Return a decorator for a handler of an event.

        It runs on the event loop that runs when it is added, else in a thread of its own.
        """
        self._note_loop()
        decorate = self._emitter.on(event, once=once)

        def add(handler: Callable[..., Any]) -> Callable[..., Any]:
            with self._order:
                decorate(handler)
                while event == "message" and self._early:
                    self._in_program(self._tell_message, *self._early.popleft())
            self._hear_everywhere()
            return handler

        return add

    def on_request(self, handler: Callable[..., Any]) -> Callable[..., Any]:
        """Answer the master's requests with what a handler returns; it runs as those of `on` do."""
        self._note_loop()
        self._answerer = handler
        return handler

    def _note_loop(self) -> None:
        with contextlib.suppress(RuntimeError):
            self._app_loop = asyncio.get_running_loop()
            self._app_thread = threading.get_ident()

    def off(self, event: str, handler: Callable[..., Any]) -> None:
        """Call a handler no more."""
        self._emitter.off(event, handler)

    def _tell(self, event: str, *arguments: Any) -> None:
        self._in_program(self._emitter.emit, event, *arguments)

    def _in_program(self, function: Callable[..., object], *arguments: Any) -> None:
        """Call a function where the program's handlers run."""
        self._inbox.append((function, arguments))
        self._wake()

    def _wake(self) -> None:
        """Have the inbox looked into, once for all that comes until it is."""
        assert self._loop is not None
        for loop in (self._app_loop, self._loop):
            if loop is None or loop.is_closed():
                continue
            if self._woken is loop:
                return
            self._woken = loop  # First: it may run before the next line does.
            with contextlib.suppress(RuntimeError):  # It has just been closed.
                loop.call_soon_threadsafe(self._run_inbox)
                return

    def _run_inbox(self) -> None:
        self._woken = None  # First: what comes from now on may be missed below.
        try:
            for _ in range(len(self._inbox)):
                function, arguments = self._inbox.popleft()
                function(*arguments)
        finally:
            if self._inbox:
                self._wake()

    def _start(self, coroutine: Coroutine[Any, Any, Any]) -> None:
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)  # Else nobody might hold it.
        task.add_done_callback(self._tasks.discard)

    # Messages.

    def send(
        self,
        message: Any,
        connection: attachment.HasFileno | None = None,
        *,
        peer: int = MASTER,
    ) -> bool:
        """Send the master, or the agent, a message that JSON can express, and maybe a socket.

        The socket stays the caller's too, who may close it at once. Returns False when so much
        waits to be read that the caller should wait. Raises `ClusterError` when it cannot be sent.
        """
        descriptors = [] if connection is None else [attachment.descriptor(connection)]
        frame = Frame(Kind.MESSAGE, encode(message), peer, attached=len(descriptors))
        return self._send(frame, descriptors)

    async def drain(self) -> None:
        """Wait until the master has read enough for `send` to return True again, or is gone."""
        drained: Future[None] = Future()
        self._call(lambda: self._wait_drained(drained))
        await asyncio.wrap_future(drained)

    async def flush(self) -> None:
        """Wait, in the loop, until the master has all that was sent, or is gone."""
        while self._messenger is not None and self._messenger.waiting_bytes:
            await asyncio.sleep(FLUSH_INTERVAL_S)

    def _wait_drained(self, drained: "Future[None]") -> None:
        assert self._messenger is not None
        with self._order:
            self._drains.append(drained)
        if self._messenger.closed or not self._messenger.is_slow:
            self._drained()

    def _drained(self) -> None:
        if self._paused:
            return
        with self._order:
            drains, self._drains = self._drains, []
        for one in drains:
            if one.set_running_or_notify_cancel():
                one.set_result(None)

    async def request(self, message: Any, *, timeout_s: float = requests.DEFAULT_TIMEOUT_S) -> Any:
        """Ask the master, and return its answer.

        Raises `ClusterError` when there is none to come, TimeoutError when it does not come.
        """
        return await self._requests.ask(message, timeout_s=timeout_s)

    def ask(self, message: Any, *, timeout_s: float = requests.DEFAULT_TIMEOUT_S) -> Any:
        """As `request`, for threads that have no event loop: it waits."""
        if threading.current_thread() is self._thread:
            raise ClusterError("ask waits, and would hold the event loop up: await request(...)")
        return self._requests.wait(message, timeout_s=timeout_s)

    def listen(self, request: Mapping[str, Any]) -> socket.socket:  # noqa: ARG002
        """Return a socket that listens where `request` says. Raises OSError, `ClusterError`."""
        raise ClusterError("the service listens for its workers: set `listen` in its configuration")

    def broadcast(self, message: Any, *, everywhere: bool = False) -> bool:
        """Send all workers a message, this one too if it is one. Otherwise as `send`."""
        body = encode(message)
        if everywhere:
            return self._all_machines().publish(body)
        return self._send(Frame(Kind.MESSAGE, body, peer=ALL))

    def _all_machines(self) -> "Everywhere":
        """Return the channel of all machines. Raises `ClusterError` when there is none."""
        from sdcluster.messaging.machines import Everywhere

        self._require_own_process()  # In another one no thread would send what is published.
        with self._order:
            if self._everywhere is None:
                self._everywhere = Everywhere(os.environ["SDCLUSTER_INSTANCE"])
            return self._everywhere

    def _hear_everywhere(self) -> None:
        """Hear the broadcasts of other machines, once there is a handler, and a cache with them."""
        if self._hears_everywhere or self._loop is None or not self._emitter.has("message"):
            return
        self._hears_everywhere = True
        if os.environ.get(cache_url.VARIABLE):
            from sdcluster.messaging import machines

            if machines.place():
                self._all_machines().subscribe(self._received_everywhere)

    def _received_everywhere(self, body: bytes) -> None:
        try:
            message = decode(body)
        except ProtocolError:
            return  # Somebody else's, who has found the channel.
        self._take_message((message,), None)
        self._wake()

    def _send(self, frame: Frame, descriptors: Sequence[int] = ()) -> bool:
        try:
            has_room = self._reachable().send(frame, descriptors)
            return has_room and not self._is_paused(frame.peer)
        except (ProtocolError, OSError) as error:
            raise ClusterError(f"cannot send to the master: {reason_of(error)}") from error

    def _send_soon(self, frame: Frame) -> None:
        """Send a frame with others of this turn of the loop that runs."""
        try:
            messenger = self._reachable()
            if messenger.gather(frame):
                asyncio.get_running_loop().call_soon(messenger.flush)
        except (ProtocolError, OSError) as error:
            raise ClusterError(f"cannot send to the master: {reason_of(error)}") from error

    def _send_later(self, frame: Frame) -> None:
        with contextlib.suppress(OSError, ClusterError):
            self._reachable().send(frame)

    def _is_paused(self, peer: int) -> bool:
        return bool(self._paused) if peer == ALL else peer in self._paused

    def _received(self, frame: Frame, descriptors: list[int]) -> None:
        match frame.kind:
            case Kind.MESSAGE:
                try:
                    self._take_message(self._arguments(frame), self._connection(descriptors))
                except ProtocolError as error:
                    # The master passes on what it does not read: it is not at fault.
                    logger.warning("a message is dropped: %s", error)
            case Kind.REQUEST:
                self._inbox.append((self._answer, (frame,)))
            case Kind.REPLY | Kind.ERROR:
                if self._requests.settle(frame, descriptors):
                    return
            case Kind.PAUSE:
                self._paused.add(frame.peer)
            case Kind.RESUME:
                self._paused.discard(frame.peer)
                self._drained()
        close_all(descriptors)

    def _connection(self, descriptors: list[int]) -> socket.socket | None:
        """Take the connection of a message out of its descriptors, if one has come."""
        return attachment.received(descriptors)

    def _arguments(self, frame: Frame) -> tuple[Any, ...]:
        """Return what a handler is given of a message or a request."""
        return (decode(frame.body),)

    def _take_message(self, arguments: tuple[Any, ...], connection: socket.socket | None) -> None:
        with self._order:
            if self._emitter.has("message"):
                self._inbox.append((self._tell_message, (arguments, connection)))
            else:
                self._early.append(arguments, connection)

    def _tell_message(self, arguments: tuple[Any, ...], connection: socket.socket | None) -> None:
        taken = self._emitter.offer("message", *arguments, extra=connection)
        if connection is not None and not taken:
            connection.close()

    def _answer(self, frame: Frame) -> None:
        try:
            arguments = self._arguments(frame)
        except ProtocolError as error:
            self._send_answer(refusal(frame.number, str(error)), frame)
            return
        reply = requests.begin_answer(self._answerer, frame.number, *arguments)
        if isinstance(reply, Frame):
            self._send_answer(reply, frame)
        else:
            self._start(self._answer_later(reply, frame))

    async def _answer_later(self, reply: Awaitable[Frame], frame: Frame) -> None:
        self._send_answer(await reply, frame)

    def _send_answer(self, reply: Frame, frame: Frame) -> None:
        try:
            self._send_soon(reply if reply.peer == frame.peer else reply._replace(peer=frame.peer))
        except ClusterError as error:
            self._send(refusal(frame.number, str(error), peer=frame.peer))

    def _deserted(self) -> None:
        """The message channel has ended: the master is dead."""
        self._requests.fail("the master is gone")
        self._paused.clear()
        self._drained()
