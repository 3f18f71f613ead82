"""What a worker is to the program that runs in it: its messages, its listeners, its leave.

A thread with an event loop of its own speaks to the master, so that a program of any kind can be a
worker: asyncio, threads, or none of both.
"""

import asyncio
import contextlib
import os
import signal
import socket
import threading
from collections import deque
from collections.abc import Callable, Coroutine, Mapping
from concurrent.futures import Future
from typing import Any, TypeVar

from sdcluster import requests
from sdcluster.emitter import Emitter
from sdcluster.errors import ClusterError, ProtocolError, reason_of
from sdcluster.loops import AsyncLoop
from sdcluster.messaging import HIGH_WATER_BYTES, Messenger
from sdcluster.requests import Requests, decode, encode
from sdcluster.wire.messages import Frame, Kind
from sdcluster.worker.intake import tell
from sdcluster.worker.listening import Listening

EVENTS = ("message", "disconnect")
MAX_EARLY = 1024
"""Messages that are kept until the program has a handler for them; the oldest go first."""
LEAVE_GRACE_S = 5.0
"""How much longer than the master a worker waits for its own end, should nobody else end it."""
QUIET_S = 0.02
"""How long a worker that leaves must have nothing to do before it ends."""
NUDGE = signal.SIGRTMAX
"""A signal that does nothing but to interrupt a system call."""
NUDGES = 20
NUDGE_INTERVAL_S = 0.05

T = TypeVar("T")


class Member:
    """The worker that this process is."""

    def __init__(
        self,
        number: int,
        control: socket.socket,
        channel: socket.socket,
        *,
        drain_timeout_s: float,
    ) -> None:
        self.id = number
        self.pid = os.getpid()
        self.exited_after_disconnect = False
        self.is_leaving = False
        self._control = control
        self._channel = channel
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="sdcluster", daemon=True)
        self._emitter = Emitter(EVENTS, start=self._start)
        self._app_loop: asyncio.AbstractEventLoop | None = None
        self._messenger: Messenger | None = None
        self._requests = Requests(self._send)
        self._answerer: Callable[..., Any] | None = None
        self._tasks: set[asyncio.Task[Any]] = set()
        self._drain_timeout_s = drain_timeout_s
        self._drains: list[Future[None]] = []
        self._listening = Listening(self._requests, self._send_later)
        self._early: deque[Any] = deque(maxlen=MAX_EARLY)
        self._order = threading.Lock()

    def start(self) -> None:
        """Begin to listen to the master, and tell it that this worker runs."""
        self._thread.start()
        self._call(self._begin)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()

    def _begin(self) -> None:
        loop = AsyncLoop(self._loop)
        self._messenger = Messenger(
            self._channel,
            loop,
            on_frame=self._received,
            on_end=lambda _: self._deserted(),
            on_drained=self._drained,
        )
        self._control.setblocking(False)
        self._loop.add_reader(self._control, self._read_control)
        tell(self._control, READY=1)

    def _call(self, function: Callable[[], T]) -> T:
        """Run a function in the thread that speaks to the master, and return its result."""
        if threading.current_thread() is self._thread:
            return function()
        if os.getpid() != self.pid:
            raise ClusterError(f"this process is not worker {self.id}, but was forked by it")
        future: Future[T] = Future()

        def run() -> None:
            try:
                future.set_result(function())
            except BaseException as error:
                future.set_exception(error)

        self._loop.call_soon_threadsafe(run)
        return future.result()

    # Events.

    def on(
        self, event: str, *, once: bool = False
    ) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
        """Return a decorator for a handler of `message` or `disconnect`.

        It runs on the event loop that runs when it is added, else in a thread of its own.
        """
        self._note_loop()
        decorate = self._emitter.on(event, once=once)

        def add(handler: Callable[..., Any]) -> Callable[..., Any]:
            with self._order:
                decorate(handler)
                while event == "message" and self._early:
                    self._tell("message", self._early.popleft())
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

    def off(self, event: str, handler: Callable[..., Any]) -> None:
        """Call a handler no more."""
        self._emitter.off(event, handler)

    def _tell(self, event: str, *arguments: Any) -> None:
        self._in_program(self._emitter.emit, event, *arguments)

    def _in_program(self, function: Callable[..., object], *arguments: Any) -> None:
        """Call a function where the program's handlers run."""
        loop = self._app_loop
        with contextlib.suppress(RuntimeError):  # It has just been closed.
            if loop is not None and not loop.is_closed():
                loop.call_soon_threadsafe(function, *arguments)
                return
        self._loop.call_soon_threadsafe(function, *arguments)

    def _start(self, coroutine: Coroutine[Any, Any, Any]) -> None:
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)  # Else nobody might hold it.
        task.add_done_callback(self._tasks.discard)

    # Messages.

    def send(self, message: Any) -> bool:
        """Send the master a message that JSON can express.

        Returns False when so much waits to be read that the caller should wait. Raises
        `ClusterError` when it cannot be sent.
        """
        return self._send(Frame(Kind.MESSAGE, encode(message)))

    async def drain(self) -> None:
        """Wait until the master has read enough for `send` to return True again, or is gone."""
        drained: Future[None] = Future()
        self._call(lambda: self._wait_drained(drained))
        await asyncio.wrap_future(drained)

    def _wait_drained(self, drained: "Future[None]") -> None:
        assert self._messenger is not None
        self._drains.append(drained)
        if self._messenger.closed or self._messenger.waiting_bytes <= HIGH_WATER_BYTES:
            self._drained()

    def _drained(self) -> None:
        drains, self._drains = self._drains, []
        for one in drains:
            if one.set_running_or_notify_cancel():
                one.set_result(None)

    async def request(self, message: Any, *, timeout_s: float = requests.DEFAULT_TIMEOUT_S) -> Any:
        """Ask the master, and return its answer.

        Raises `ClusterError` when there is none to come, TimeoutError when it does not come.
        """
        return await self._requests.ask(message, timeout_s=timeout_s)

    def _send(self, frame: Frame) -> bool:
        def send() -> bool:
            assert self._messenger is not None
            return self._messenger.send(frame)

        try:
            return self._call(send)
        except (ProtocolError, OSError) as error:
            raise ClusterError(f"cannot send to the master: {reason_of(error)}") from error

    def _send_later(self, frame: Frame) -> None:
        def send() -> None:
            assert self._messenger is not None
            with contextlib.suppress(OSError):
                self._messenger.send(frame)

        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(send)

    def _received(self, frame: Frame, descriptors: list[int]) -> None:
        match frame.kind:
            case Kind.MESSAGE:
                self._take_message(decode(frame.body))
            case Kind.REQUEST:
                self._in_program(self._answer, frame)
            case Kind.REPLY | Kind.ERROR:
                if self._requests.settle(frame, descriptors):
                    return
        for fd in descriptors:
            os.close(fd)

    def _take_message(self, message: Any) -> None:
        with self._order:
            if self._emitter.has("message"):
                self._tell("message", message)
            else:
                self._early.append(message)

    def _answer(self, frame: Frame) -> None:
        async def answer() -> None:
            reply = await requests.answer(self._answerer, frame.number, decode(frame.body))
            try:
                self._send(reply)
            except ClusterError as error:
                self._send(requests.refusal(frame.number, str(error)))

        self._start(answer())

    def listen(self, request: Mapping[str, Any]) -> socket.socket:
        """Return a socket that listens where `request` says, for all workers that ask the same.

        Raises OSError as bind(2) and listen(2) do.
        """
        if threading.current_thread() is self._thread:
            raise ClusterError("listen cannot be called from a handler without an event loop")
        return self._listening.open(request)

    # Leaving.

    def disconnect(self) -> None:
        """Leave: take no more connections, and exit when those there are have been closed."""
        self.exited_after_disconnect = True
        tell(self._control, STOPPING=1)

    def kill(self, number: int = signal.SIGTERM) -> None:
        """End this worker as if the master did."""
        self.exited_after_disconnect = True
        self._send(Frame(Kind.DISCONNECT))
        os.kill(self.pid, number)

    def _read_control(self) -> None:
        try:
            data = self._control.recv(16)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._loop.remove_reader(self._control)
            self._leave()

    def _deserted(self) -> None:
        """The message channel has ended: the master is dead."""
        self._requests.fail("the master is gone")
        self._drained()
        self._leave()

    def _leave(self) -> None:
        """No more connections come: the master has said so, or is dead."""
        if self.is_leaving:
            return
        self.is_leaving = True
        self._listening.stop()
        self._tell("disconnect")
        self._loop.call_later(self._drain_timeout_s, self._end)
        self._loop.call_later(self._drain_timeout_s + LEAVE_GRACE_S, self._give_up)
        self._loop.call_later(QUIET_S, self._end_when_idle, self._listening.is_idle())

    def _end_when_idle(self, was_idle: bool) -> None:
        """End when there was nothing to do twice: a connection may be in the act of being taken."""
        is_idle = self._listening.is_idle()
        if is_idle and was_idle:
            self._end()
        else:
            self._loop.call_later(QUIET_S, self._end_when_idle, is_idle)

    def _end(self) -> None:
        """Interrupt the program, wherever it is, so that it ends as with Ctrl-C."""
        ident = threading.main_thread().ident
        if ident is not None:
            signal.pthread_kill(ident, signal.SIGINT)
            self._nudge(ident, NUDGES)

    def _nudge(self, ident: int, times: int) -> None:
        """Have a thread look for signals: one that comes just before it waits does not wake it."""
        signal.pthread_kill(ident, NUDGE)
        if times:
            self._loop.call_later(NUDGE_INTERVAL_S, self._nudge, ident, times - 1)

    def _give_up(self) -> None:
        """End at once: this process should be dead, and so may the master be who ends such."""
        os.kill(self.pid, signal.SIGKILL)
