"""The worker that a program of the user's is: its messages, its listeners, its leave.

A thread with an event loop of its own speaks to the master, so that a program of any kind can be a
worker: asyncio, threads, or none of both.
"""

import asyncio
import contextlib
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from sdcluster.errors import ClusterError
from sdcluster.messaging import requests
from sdcluster.messaging.emitter import Emitter
from sdcluster.wire.channel import FINISH
from sdcluster.wire.messages import Frame, Kind
from sdcluster.worker.messages.member import Member
from sdcluster.worker.messages.reading import Reading
from sdcluster.worker.moving.intake import tell
from sdcluster.worker.sockets.listener import ClusterListener
from sdcluster.worker.sockets.listening import Listening

LEAVE_GRACE_S = 5.0
"""How much longer than the master a worker waits for its own end, should nobody else end it."""
AFTER_S = 1.0
"""How long a program may go on after a server that has ended past the deadline."""
QUIET_S = 0.02
"""How long a worker that leaves must have nothing to do before it ends."""
SHARE_INTERVAL_S = 0.001
"""How long others may take of a backlog that ends before this worker takes more of it."""
NUDGE = signal.SIGRTMAX
"""A signal that does nothing but to interrupt a system call."""
NUDGES = 20
NUDGE_INTERVAL_S = 0.05


class ProgramMember(Member):
    """The worker that this process is."""

    events = ("message", "disconnect")

    def __init__(
        self,
        number: int,
        control: socket.socket,
        channel: socket.socket,
        *,
        drain_timeout_s: float,
    ) -> None:
        super().__init__(number)
        self._control = control
        self._channel = channel
        self._own_loop = self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="sdcluster", daemon=True)
        self.drain_timeout_s = drain_timeout_s
        self._listening = Listening(self._requests, self._send_later, self._waiting)
        self._holders: list[Callable[[], None]] = []
        """What tells servers that the worker is to leave: they end, and interrupt nothing."""
        self._goes_on = False
        """A server has ended so, and the program goes on after it."""
        self._is_overdue = False
        """At the deadline a server was still ending."""
        self._reading: Reading | None = None
        self._telling = threading.Lock()
        self._has_told = False
        """Those who hear of it were told that the worker is to leave."""

    def start(self) -> None:
        """Begin to listen to the master, and tell it that this worker runs."""
        assert self._thread is not None
        self._thread.start()
        self._call(self._begin_all)

    def _run(self) -> None:
        asyncio.set_event_loop(self._own_loop)
        self._own_loop.run_forever()

    def _begin_all(self) -> None:
        self._begin(self._channel)
        assert self._messenger is not None
        self._reading = Reading(self._messenger, self._in_own_loop)
        self._control.setblocking(False)
        self._own_loop.add_reader(self._control, self._read_control)
        tell(self._control, READY=1)

    def _connection(self, descriptors: list[int]) -> socket.socket | None:
        return self._listening.received(descriptors)

    def listen(self, request: Mapping[str, Any]) -> socket.socket:
        """Return a socket that listens where `request` says, for all workers that ask the same.

        Raises OSError as bind(2) and listen(2) do.
        """
        if threading.current_thread() is self._thread:
            raise ClusterError("listen cannot be called from a handler without an event loop")
        assert self._reading is not None
        with self._reading.meanwhile():
            return self._listening.open(request)

    def _waiting(self) -> contextlib.AbstractContextManager[None] | None:
        """Return what an answer can be waited for in; None in the thread that would bring it."""
        is_here = threading.current_thread() is self._thread
        if is_here or self._reading is None or os.getpid() != self.pid:
            return None
        return self._reading.meanwhile()

    def at_end(self) -> None:
        """The program has ended: it closes what it has for no other reason."""
        self._listening.is_at_end = True

    def on(
        self, event: str, *, once: bool = False
    ) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
        """Return a decorator for a handler of an event.

        One of `disconnect` that comes after the order to leave is called all the same.
        """
        decorate = super().on(event, once=once)

        def add(handler: Callable[..., Any]) -> Callable[..., Any]:
            with self._telling:
                if not self._has_told:
                    return decorate(handler)
            late = Emitter((event,), start=self._start)
            late.on(event)(handler)
            self._in_program(late.emit, event)
            return handler

        return add if event == "disconnect" else decorate

    # Messages.

    def _note_loop(self) -> None:
        super()._note_loop()
        if self._reading is not None and os.getpid() == self.pid:  # Not in a fork of this worker.
            with contextlib.suppress(RuntimeError):  # No loop runs here.
                self._reading.offer()

    async def request(self, message: Any, *, timeout_s: float = requests.DEFAULT_TIMEOUT_S) -> Any:
        """Ask the master, and return its answer.

        Raises `ClusterError` when there is none to come, TimeoutError when it does not come.
        """
        assert self._reading is not None
        self._reading.answers()
        return await super().request(message, timeout_s=timeout_s)

    async def drain(self) -> None:
        """Wait until the master has read enough for `send` to return True again, or is gone."""
        assert self._reading is not None
        self._reading.answers()
        await super().drain()

    def ask(self, message: Any, *, timeout_s: float = requests.DEFAULT_TIMEOUT_S) -> Any:
        """As `request`, for threads that have no event loop: it waits."""
        assert self._reading is not None
        with self._reading.meanwhile():
            return super().ask(message, timeout_s=timeout_s)

    async def alisten(self, request: Mapping[str, Any]) -> ClusterListener:
        """As `listen`, in a coroutine."""
        return await self._listening.aopen(request)

    # Leaving.

    @contextlib.contextmanager
    def holding(self, on_leave: Callable[[], None]) -> Iterator[None]:
        """Interrupt nobody while the body runs, which ends in time once `on_leave` was called.

        Where that is the main thread, the program goes on, and has until the drain deadline.
        """
        is_main = threading.current_thread() is threading.main_thread()
        self._call(lambda: self._hold(on_leave))
        try:
            yield
        finally:
            self._call(lambda: self._let_go(on_leave, is_main=is_main))

    def _hold(self, on_leave: Callable[[], None]) -> None:
        self._holders.append(on_leave)
        if self.is_leaving:
            on_leave()

    def _let_go(self, on_leave: Callable[[], None], *, is_main: bool) -> None:
        self._holders.remove(on_leave)
        self._goes_on = self.is_leaving and is_main
        if self._is_overdue and not self._holders:
            self._own_loop.call_later(AFTER_S, self._end)

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
        if data == FINISH:
            self._listening.cluster_stops()
        if not data:
            self._own_loop.remove_reader(self._control)
            self._leave()

    def _deserted(self) -> None:
        super()._deserted()
        self._leave()

    def _leave(self) -> None:
        """No more connections come: the master has said so, or is dead."""
        if self.is_leaving:
            return
        self.is_leaving = True
        if self._reading is not None:
            self._reading.stay()
        self._stop_listening()
        self._in_program(self._tell_to_leave)
        for on_leave in self._holders:
            on_leave()
        self._own_loop.call_later(self.drain_timeout_s, self._end)
        self._own_loop.call_later(self.drain_timeout_s + LEAVE_GRACE_S, self._give_up)
        self._own_loop.call_later(QUIET_S, self._end_when_idle, self._is_idle())

    def _stop_listening(self) -> None:
        if self._listening.stop():
            self._own_loop.call_later(SHARE_INTERVAL_S, self._stop_listening)

    def _tell_to_leave(self) -> None:
        with self._telling:
            self._has_told = True
        self._emitter.emit("disconnect")

    def _is_idle(self) -> bool:
        assert self._messenger is not None
        is_silent = not self._messenger.waiting_bytes
        return is_silent and not self._holders and self._listening.is_idle()

    def _end_when_idle(self, was_idle: bool) -> None:
        """End when there was nothing to do twice: a connection may be in the act of being taken."""
        if self._goes_on:
            return
        is_idle = self._is_idle()
        if is_idle and was_idle:
            self._end()
        else:
            self._own_loop.call_later(QUIET_S, self._end_when_idle, is_idle)

    def _end(self) -> None:
        """Interrupt the program, wherever it is, so that it ends as with Ctrl-C."""
        if self._holders:
            self._is_overdue = True
            return
        ident = threading.main_thread().ident
        if ident is not None:
            signal.pthread_kill(ident, signal.SIGINT)
            self._nudge(ident, NUDGES)

    def _nudge(self, ident: int, times: int) -> None:
        """Have a thread look for signals: one that comes just before it waits does not wake it."""
        signal.pthread_kill(ident, NUDGE)
        if times:
            self._own_loop.call_later(NUDGE_INTERVAL_S, self._nudge, ident, times - 1)

    def _give_up(self) -> None:
        """End at once: this process should be dead, and so may the master be who ends such."""
        os.kill(self.pid, signal.SIGKILL)
