"""A Python worker: the engine, the intake, and the way from start to drain to the end.

The engine is uvicorn: its protocols and its lifespan, without its listeners, signals and shutdown,
which lose connections.
"""

import asyncio
import contextlib
import logging
import signal
import socket
import time
from collections.abc import Callable, Sequence
from typing import Any

from sdcluster.errors import AppError
from sdcluster.wire.frames import Prepare
from sdcluster.wire.scoreboard import Field, Scoreboard
from sdcluster.worker.gate import CLOSE, App, Gate
from sdcluster.worker.intake import Intake

DRAIN_POLL_S = 0.02
CLOSE_GRACE_S = 1.0
"""From the drain deadline, when what is left is closed, to its cancellation."""

logger = logging.getLogger("sdcluster")


def serve(
    app: App,
    prepare: Prepare,
    *,
    control: socket.socket,
    listeners: Sequence[socket.socket],
    board: Scoreboard,
    on_loop: Callable[[asyncio.AbstractEventLoop], None],
) -> None:
    """Serve an ASGI app until the master says stop. Raises `AppError` if it does not start.

    `on_loop` is called in the loop, before the app is told that it starts.
    """
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        on_loop(runner.get_loop())
        runner.run(_Server(app, prepare, control, listeners, board).run())


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop
    except ImportError:
        return None
    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory


class _Server:
    def __init__(
        self,
        app: App,
        prepare: Prepare,
        control: socket.socket,
        listeners: Sequence[socket.socket],
        board: Scoreboard,
    ) -> None:
        import uvicorn

        self._prepare = prepare
        self._control = control
        self._listeners = listeners
        self._board = board
        self._gate = Gate(app, board, track=prepare.track_requests)
        self._config: Any = uvicorn.Config(
            self._gate,
            interface="asgi3",
            log_config=None,
            access_log=prepare.access_log,
            proxy_headers=bool(prepare.forwarded_allow_ips),
            forwarded_allow_ips=prepare.forwarded_allow_ips or None,
            root_path=prepare.root_path,
        )
        self._config.load()
        self._uvicorn: Any = uvicorn.Server(self._config)
        self._ended = asyncio.Event()

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        self._uvicorn.lifespan = self._config.lifespan_class(self._config)
        await self._start_up()
        state = self._uvicorn.server_state
        intake = Intake(
            self._control,
            self._listeners,
            self._board,
            protocol_factory=self._protocol_factory(on_closed=lambda: intake.closed()),
            connections=lambda: len(state.connections),
            max_connections=self._prepare.max_connections,
            on_end=self._ended.set,
        )
        # It serves until the master has another in its place, or has heard SIGTERM as well.
        loop.add_signal_handler(signal.SIGTERM, lambda: intake.tell(X_WORN=1))
        clock = loop.create_task(self._uvicorn.main_loop())
        beat = loop.create_task(self._beat(intake))
        # The app may block the loop before the task's first turn; that has to be seen as well.
        self._board[Field.HEARTBEAT_NS] = time.monotonic_ns()
        intake.tell(READY=1)
        await self._ended.wait()
        await self._drain(intake)
        clock.cancel()
        beat.cancel()
        await self._uvicorn.lifespan.shutdown()

    async def _start_up(self) -> None:
        """Run the lifespan's startup. Raises `AppError` however the version shows a failure."""
        try:
            await self._uvicorn.startup(sockets=[])
        except SystemExit as error:
            raise AppError("the app's lifespan startup failed") from error
        if self._uvicorn.lifespan.should_exit or self._uvicorn.should_exit:
            raise AppError("the app's lifespan startup failed")

    def _protocol_factory(self, *, on_closed: Callable[[], None]) -> Callable[[], asyncio.Protocol]:
        cls = self._config.http_protocol_class
        if self._prepare.max_connections:
            cls = _telling(cls, on_closed)
        arguments = {"config": self._config, "server_state": self._uvicorn.server_state}
        app_state = getattr(self._uvicorn.lifespan, "state", None)
        if app_state is not None:
            arguments["app_state"] = app_state
        return lambda: cls(**arguments)

    async def _beat(self, intake: Intake) -> None:
        board, state = self._board, self._uvicorn.server_state
        interval_s = min(self._prepare.heartbeat_interval_s, 0.2 if intake.is_limited else 1.0)
        while True:
            board[Field.HEARTBEAT_NS] = time.monotonic_ns()
            board[Field.REQUESTS] = state.total_requests
            board[Field.CONNECTIONS] = len(state.connections) + intake.opening
            intake.look_for_room()
            await asyncio.sleep(interval_s)

    async def _drain(self, intake: Intake) -> None:
        """Answer everything that is open once more, then close it; until the deadline."""
        state = self._uvicorn.server_state
        intake.stop_accepting()
        self._gate.drain()
        for protocol in state.connections:
            _announce_close(protocol)

        def is_over() -> bool:
            return not (state.connections or state.tasks or intake.opening)

        deadline = time.monotonic() + self._prepare.drain_timeout_s
        while not is_over() and time.monotonic() < deadline:
            await asyncio.sleep(DRAIN_POLL_S)
        if is_over():
            return
        logger.warning("%d connections are open at the drain deadline", len(state.connections))
        for protocol in list(state.connections):
            with contextlib.suppress(Exception):  # A protocol that fails here is closed below.
                protocol.shutdown()
        deadline += CLOSE_GRACE_S
        while not is_over() and time.monotonic() < deadline:
            await asyncio.sleep(DRAIN_POLL_S)
        for task in list(state.tasks):
            task.cancel()


def _announce_close(protocol: Any) -> None:
    """Have a request under way say `Connection: close` in its response, if that is still to begin.

    The gate sees those that come later. Else the connection would be kept, idle, and then closed
    without a word.
    """
    cycle: Any = getattr(protocol, "cycle", None)
    if hasattr(cycle, "default_headers"):
        cycle.default_headers = [*cycle.default_headers, CLOSE]


def _telling(cls: Any, on_closed: Callable[[], None]) -> Any:
    """Return a subclass of a protocol class whose connections tell when they are closed."""

    class Telling(cls):  # type: ignore[misc]
        def connection_lost(self, error: Exception | None) -> None:
            super().connection_lost(error)
            on_closed()

    return Telling
