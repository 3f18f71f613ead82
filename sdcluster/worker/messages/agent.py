"""The agent: one process of the user's beside the workers of a service, which gets no connections.

It has the place that the master has in a program of the library: it hears and tells the workers,
answers what they ask, and does what is to be done once and not in every worker.
"""

import asyncio
import contextlib
import inspect
import json
import signal
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from sdcluster.errors import AppError
from sdcluster.messaging import attachment, requests
from sdcluster.messaging.repetition import Repeating
from sdcluster.wire import channel
from sdcluster.wire.frames import Prepare
from sdcluster.wire.messages import Frame, Kind
from sdcluster.wire.scoreboard import Field, Scoreboard
from sdcluster.worker.host import loader
from sdcluster.worker.messages.member import Member
from sdcluster.worker.moving.intake import tell


@dataclass(eq=False)
class Peer:
    """A worker, as the agent reaches it."""

    id: int
    slot: int = -1
    generation: int = 0
    pid: int = 0
    is_connected: bool = False
    """Whether messages reach it."""
    _agent: "Agent | None" = field(default=None, repr=False)

    def send(self, message: Any, connection: attachment.HasFileno | None = None) -> bool:
        """Send it a message that JSON can express, and maybe a socket with it.

        Returns False when so much waits for it to read that the caller should wait, see `drain`.
        Raises `ClusterError` when the message cannot be sent.
        """
        assert self._agent is not None
        return self._agent.send(message, connection, peer=self.id)

    async def drain(self) -> None:
        """Wait until the workers have read enough for `send` to return True again."""
        assert self._agent is not None
        await self._agent.drain()

    async def request(self, message: Any, *, timeout_s: float = requests.DEFAULT_TIMEOUT_S) -> Any:
        """Ask it, and return the answer of its handler, see `cluster.on_request`.

        Raises `ClusterError` when there is none to come, TimeoutError when it does not come.
        """
        assert self._agent is not None
        return await self._agent._requests.ask(message, timeout_s=timeout_s, peer=self.id)


class Agent(Member):
    """The agent that this process is."""

    events = ("message", "online", "disconnect")

    def __init__(self) -> None:
        super().__init__()
        self.workers: dict[int, Peer] = {}
        self._hears_everywhere = True  # Its workers do.
        self._repeated: list[Repeating] = []
        self._is_entrusted = False
        self._has_all = asyncio.Event()
        """Nothing more will come than answers."""

    @property
    def name(self) -> str:
        """What messages for people call it."""
        return "the agent"

    def join(self, messages: socket.socket, loop: asyncio.AbstractEventLoop) -> None:
        """Be the agent from now on, in the loop that runs."""
        self._join(messages, loop)

    def every(self, seconds: float, function: Callable[[], Any]) -> None:
        """Call a function every so many seconds, as soon as this is the agent and no other."""
        repeating = Repeating(seconds, function, start=self._start)
        self._repeated.append(repeating)
        if self._is_entrusted:
            assert self._loop is not None
            repeating.begin(self._loop)

    def entrust(self) -> None:
        """Be the one that does what is to be done every so often: the one before has ended."""
        if not self._is_entrusted:
            self._is_entrusted = True
            assert self._loop is not None
            for one in self._repeated:
                one.begin(self._loop)

    def rest(self) -> None:
        """Do nothing more by itself: the next agent does."""
        for one in self._repeated:
            one.end()

    async def take_all(self) -> None:
        """Wait until all that it was sent has come: the next agent gets none of that."""
        await self._has_all.wait()

    async def finish(self, main: "asyncio.Future[Any]") -> None:
        """Wait for what is at work, `main` and handlers, and until their answers have been sent."""
        await asyncio.wait({main, *self._tasks})
        await self.flush()

    def _received(self, frame: Frame, descriptors: list[int]) -> None:
        match frame.kind:
            case Kind.JOINED:
                peer = Peer(frame.peer, **json.loads(frame.body), is_connected=True, _agent=self)
                self.workers[peer.id] = peer
                self._tell("online", peer)
            case Kind.LEFT:
                gone = self.workers.pop(frame.peer, None)
                self._paused.discard(frame.peer)
                self._drained()
                if gone is not None:
                    gone.is_connected = False
                    self._tell("disconnect", gone)
            case Kind.FINISH:
                self._has_all.set()
            case _:
                super()._received(frame, descriptors)

    def _deserted(self) -> None:
        super()._deserted()
        self._has_all.set()

    def _arguments(self, frame: Frame) -> tuple[Any, ...]:
        return (self._peer(frame.peer), *super()._arguments(frame))

    def _peer(self, number: int) -> Peer:
        return self.workers.get(number) or Peer(number, _agent=self)  # It has just gone.


def serve(
    function: Callable[[], Any],
    prepare: Prepare,
    agent: Agent,
    *,
    control: socket.socket,
    messages: socket.socket,
    board: Scoreboard,
) -> None:
    """Be the agent until the master says stop. Raises `AppError` if `function` fails."""
    asyncio.run(_Life(function, prepare, agent, control, board).run(messages))


class _Life:
    def __init__(
        self,
        function: Callable[[], Any],
        prepare: Prepare,
        agent: Agent,
        control: socket.socket,
        board: Scoreboard,
    ) -> None:
        self._function = function
        self._prepare = prepare
        self._agent = agent
        self._control = control
        self._board = board
        self._ended = asyncio.Event()

    async def run(self, messages: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        self._agent.join(messages, loop)
        self._control.setblocking(False)
        loop.add_reader(self._control, self._read_control)
        # It is the agent until the master has another in its place, or has heard SIGTERM as well.
        loop.add_signal_handler(signal.SIGTERM, lambda: tell(self._control, X_WORN=1))
        beat = loop.create_task(self._beat())
        main = await self._begin()
        self._board[Field.HEARTBEAT_NS] = time.monotonic_ns()
        tell(self._control, READY=1)
        ended = loop.create_task(self._ended.wait())
        await asyncio.wait({main, ended}, return_when=asyncio.FIRST_COMPLETED)
        self._check(main)
        await ended  # A function that has returned has said what it wants to hear of.
        self._agent.rest()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._prepare.drain_timeout_s):
                await self._agent.take_all()
                main.cancel()
                await self._agent.finish(main)
        self._check(main)
        beat.cancel()

    async def _begin(self) -> "asyncio.Future[Any]":
        """Call the function, and let a coroutine function begin; return what it is to end with."""
        result = loader.guarded(f"{self._prepare.agent} failed", self._function)
        if inspect.isgenerator(result) or inspect.isasyncgen(result):
            raise AppError(f"{self._prepare.agent} is a generator, and none of it would run")
        if not inspect.isawaitable(result):
            result = asyncio.sleep(0)
        main: asyncio.Future[Any] = asyncio.ensure_future(result)
        await asyncio.sleep(0)
        self._check(main)
        return main

    def _check(self, main: "asyncio.Future[Any]") -> None:
        """Raise `AppError` when the function has failed."""
        if main.done() and not main.cancelled():
            loader.guarded(f"{self._prepare.agent} failed", main.result)

    def _read_control(self) -> None:
        try:
            data = self._control.recv(channel.MAX_CONNECTIONS_PER_FRAME + 1)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if data == channel.ADMIT:
            self._agent.entrust()
        elif not data:
            asyncio.get_running_loop().remove_reader(self._control)
            self._ended.set()

    async def _beat(self) -> None:
        while True:
            self._board[Field.HEARTBEAT_NS] = time.monotonic_ns()
            await asyncio.sleep(self._prepare.heartbeat_interval_s)
