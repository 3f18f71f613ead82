"""An app on the HTTP engine: its start, a protocol for each connection, its drain, its end.

The engine is uvicorn: its protocols and its lifespan, without its listeners, signals and shutdown,
which lose connections. Where connections come from, and when no more will, others know.
"""

import asyncio
import contextlib
import logging
import socket
import time
from collections.abc import Callable, Iterable
from typing import Any

from sdcluster.errors import AppError
from sdcluster.wire.channel import ANY, Handoff
from sdcluster.worker.http import uvicorn_protocols
from sdcluster.worker.http.gate import CLOSE, Gate
from sdcluster.worker.http.silence import Silence
from sdcluster.worker.moving import request_connection
from sdcluster.worker.moving.exit import Sent
from sdcluster.worker.moving.movable import MovableConnection, Moves
from sdcluster.worker.moving.movable_unix import MovableUnixConnection
from sdcluster.worker.moving.refusals import Refusal

DRAIN_POLL_S = 0.02
CLOSE_GRACE_S = 1.0
"""From the drain deadline, when what is left is closed, to its cancellation."""

logger = logging.getLogger("sdcluster")

LoopFactory = Callable[[], asyncio.AbstractEventLoop]


def loop_factory() -> LoopFactory | None:
    """Return what makes the fastest loop there is; None for asyncio's own."""
    try:
        import uvloop
    except ImportError:
        return None
    factory: LoopFactory = uvloop.new_event_loop
    return factory


class Application:
    """The app behind a gate, from its start in a loop to its end."""

    def __init__(
        self, gate: Gate, *, access_log: bool, forwarded_allow_ips: str, root_path: str
    ) -> None:
        import uvicorn

        self._gate = gate
        self._config: Any = uvicorn.Config(
            gate,
            interface="asgi3",
            log_config=None,
            access_log=access_log,
            proxy_headers=bool(forwarded_allow_ips),
            forwarded_allow_ips=forwarded_allow_ips or None,
            root_path=root_path,
        )
        self._config.load()
        self._uvicorn: Any = uvicorn.Server(self._config)
        self._state: Any = self._uvicorn.server_state
        self._clock: asyncio.Task[None] | None = None
        self._is_hurried = False

    @property
    def connections(self) -> int:
        """How many connections are open."""
        return len(self._state.connections)

    @property
    def busy(self) -> int:
        """How many connections are open, or requests at work though theirs has gone."""
        return max(len(self._state.connections), len(self._state.tasks))

    @property
    def requests(self) -> int:
        """How many requests were answered, ever."""
        return int(self._state.total_requests)

    async def start_up(self) -> None:
        """Run the lifespan's startup. Raises `AppError` however the version shows a failure."""
        self._uvicorn.lifespan = self._config.lifespan_class(self._config)
        try:
            await self._uvicorn.startup(sockets=[])
        except SystemExit as error:
            raise AppError("the app's lifespan startup failed") from error
        if self._uvicorn.lifespan.should_exit or self._uvicorn.should_exit:
            raise AppError("the app's lifespan startup failed")
        self._clock = asyncio.get_running_loop().create_task(self._uvicorn.main_loop())

    def protocol_factory(self) -> Callable[[], asyncio.Protocol]:
        """Return what makes a protocol for a connection that stays."""
        cls = self._config.http_protocol_class
        arguments = self._arguments()
        return lambda: cls(**arguments)

    def connection_factory(
        self, moves: Moves
    ) -> Callable[[int, Handoff, socket.socket | None], asyncio.BaseProtocol]:
        """Return what makes a protocol for a connection that can go to another worker.

        It takes the number of the descriptor, what came with it, and its socket if that is a Unix
        one. Those of an engine whose protocols are not known stay all the same.
        """
        cls = uvicorn_protocols.movable(self._config.http_protocol_class)
        arguments = self._arguments()
        if cls is None:
            logger.warning("this version of uvicorn is not known: connections stay in their worker")
            plain = _telling(self._config.http_protocol_class, moves.on_closed)
            return lambda _number, _handoff, _unix: plain(**arguments)

        def make(
            number: int, came_with: Handoff, unix: socket.socket | None
        ) -> asyncio.BaseProtocol:
            engine = cls(**arguments)
            connection = (
                MovableConnection(engine, number, came_with, moves)
                if unix is None
                else MovableUnixConnection(engine, number, came_with, moves, unix)
            )
            request_connection.enter(connection)
            return connection

        return make

    def _arguments(self) -> dict[str, Any]:
        arguments = {"config": self._config, "server_state": self._state}
        app_state = getattr(self._uvicorn.lifespan, "state", None)
        if app_state is not None:
            arguments["app_state"] = app_state
        return arguments

    async def drain(
        self,
        timeout_s: float,
        *,
        has_others: Callable[[], object],
        moves: Moves | None = None,
    ) -> None:
        """Be rid of every connection; until the deadline.

        With `moves` those that are idle go to other workers, and those at work when they are idle.
        The others, and all when there is nobody to go to, are answered once more and closed; those
        that ask nothing are closed as they are, see `silence`. `has_others` tells whether there are
        connections that the engine does not know yet, or no more.

        In a hurry there are no other workers, but a next master, to which the master leaves those
        that ask nothing. Whoever asks is answered and closed: the next one may come late, or never.
        """
        state = self._state
        keeps = False
        if moves is None or moves.is_shut:
            moves = None
            self._close_when_answered()
        elif self._is_hurried:
            keeps = True
            self._close_when_answered()
        else:
            moves.is_draining = True
            self._gate.drain(_is_stuck)

        def is_over() -> bool:
            return not (state.connections or state.tasks or has_others())

        silence: Silence[Any] = Silence()
        stalls: Silence[Any] = Silence()
        deadline = time.monotonic() + timeout_s
        while not is_over() and time.monotonic() < deadline:
            if moves is not None:
                if not keeps:
                    self.move_some(len(state.connections))
                if moves.is_shut:
                    moves, keeps = None, False
                    self._close_when_answered()
            silent = self._silent(may_move=moves is not None and not keeps)
            _see_off(silence.look(silent, time.monotonic()), keeps=keeps)
            if self._is_hurried:
                _for_each(stalls.look(self._awaited(), time.monotonic()), _time_out)
            await asyncio.sleep(DRAIN_POLL_S)
        if is_over():
            return
        logger.warning("%d connections are open at the drain deadline", len(state.connections))
        _for_each(state.connections, _shut_down)
        deadline += CLOSE_GRACE_S
        while not is_over() and time.monotonic() < deadline:
            await asyncio.sleep(DRAIN_POLL_S)
        for task in list(state.tasks):
            task.cancel()

    def _close_when_answered(self) -> None:
        self._gate.drain(lambda: True)
        _for_each(self._state.connections, _announce_close)

    def _silent(self, *, may_move: bool) -> list[tuple[Any, int]]:
        """Return the connections that ask nothing and do not move, and what has come from each.

        What has come tells nothing when none may move: there is no time for a request to begin.
        """
        found = []

        def look(protocol: Any) -> None:
            if not uvicorn_protocols.is_waiting(protocol):
                return
            connection = protocol.transport
            come = 0
            if may_move and isinstance(connection, MovableConnection):
                if connection.is_movable or connection.get_write_buffer_size():
                    return
                come = connection.consumed
            found.append((protocol, come))

        _for_each(self._state.connections, look)
        return found

    def _awaited(self) -> list[tuple[Any, int]]:
        """Return the connections whose client is to send more of a request, and what has come."""
        found = []

        def look(protocol: Any) -> None:
            connection = protocol.transport
            if isinstance(connection, MovableConnection) and uvicorn_protocols.is_awaited(protocol):
                found.append((protocol, connection.consumed))

        _for_each(self._state.connections, look)
        return found

    def hurry(self) -> None:
        """Have the drain be soon over: new clients wait for its end, and for the next master."""
        self._is_hurried = True

    def move_some(self, count: int, slot: int = ANY) -> None:
        """Hand over what is idle: up to `count`, and to what the master takes at a time."""
        left, is_taken = count, True

        def move(protocol: Any) -> None:
            nonlocal left, is_taken
            connection = protocol.transport
            if isinstance(connection, MovableConnection) and connection.is_free:
                is_taken = connection.hand_over(slot) is Sent.YES
                left -= 1

        _for_each(self._state.connections, move, while_=lambda: left > 0 and is_taken)

    async def shut_down(self) -> None:
        """Run the lifespan's shutdown."""
        if self._clock is not None:
            self._clock.cancel()
        await self._uvicorn.lifespan.shutdown()


def _is_stuck() -> bool:
    """Tell whether the connection of the request can never go to another worker."""
    connection = request_connection.current()
    return connection is None or connection.is_stuck


def _announce_close(protocol: Any) -> None:
    """Have a request under way say `Connection: close` in its response, if that is still to begin.

    The gate sees those that come later. Else the connection would be kept, idle, and then closed
    without a word.
    """
    cycle: Any = getattr(protocol, "cycle", None)
    if hasattr(cycle, "default_headers"):
        cycle.default_headers = [*cycle.default_headers, CLOSE]


def _is_free(protocol: Any) -> bool:
    """Tell whether a connection can go elsewhere now."""
    connection = protocol.transport
    return isinstance(connection, MovableConnection) and connection.is_free


def _shut_down(protocol: Any) -> None:
    """Have a protocol close its connection as soon as that can be."""
    protocol.shutdown()


def _see_off(protocols: Iterable[Any], *, keeps: bool) -> None:
    """Shut silent connections down; with `keeps` let the master keep those that can go to it."""
    is_taken = True

    def leave(protocol: Any) -> None:
        nonlocal is_taken
        if keeps and _is_free(protocol):
            # Else the master takes none now.
            is_taken = protocol.transport.hand_over() is Sent.YES
        else:
            _shut_down(protocol)

    _for_each(protocols, leave, while_=lambda: is_taken)


def _time_out(protocol: Any) -> None:
    """Answer a request whose body does not come."""
    protocol.transport.refuse(Refusal.STALLED)


def _for_each(
    protocols: Iterable[Any],
    do: Callable[[Any], object],
    *,
    while_: Callable[[], bool] = lambda: True,
) -> None:
    """Do something with each connection: one where that fails is closed, and is alone in that."""
    for protocol in list(protocols):
        if not while_():
            return
        try:
            do(protocol)
        except Exception:
            logger.exception("a connection fails, and is closed")
            with contextlib.suppress(Exception):
                protocol.transport.abort()


def _telling(cls: Any, on_closed: Callable[[], None]) -> Any:
    """Return a subclass of a protocol class whose connections tell when they are closed."""

    class Telling(cls):  # type: ignore[misc]
        def connection_lost(self, error: Exception | None) -> None:
            super().connection_lost(error)
            on_closed()

    return Telling
