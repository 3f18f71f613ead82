"""An app on the HTTP engine: its start, a protocol for each connection, its drain, its end.

The engine is uvicorn: its protocols and its lifespan, without its listeners, signals and shutdown,
which lose connections. Where connections come from, and when no more will, others know.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from typing import Any

from sdcluster.errors import AppError
from sdcluster.worker.gate import CLOSE, Gate

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

    @property
    def connections(self) -> int:
        """How many connections are open."""
        return len(self._state.connections)

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

    def protocol_factory(
        self, *, on_closed: Callable[[], None] | None = None
    ) -> Callable[[], asyncio.Protocol]:
        """Return what makes a protocol; `on_closed` is called when a connection of one closes."""
        cls = self._config.http_protocol_class
        if on_closed is not None:
            cls = _telling(cls, on_closed)
        arguments = {"config": self._config, "server_state": self._state}
        app_state = getattr(self._uvicorn.lifespan, "state", None)
        if app_state is not None:
            arguments["app_state"] = app_state
        return lambda: cls(**arguments)

    async def drain(self, timeout_s: float, *, is_arriving: Callable[[], object]) -> None:
        """Answer everything that is open once more, then close it; until the deadline.

        `is_arriving` tells whether connections are about to get their protocol.
        """
        state = self._state
        self._gate.drain()
        for protocol in state.connections:
            _announce_close(protocol)

        def is_over() -> bool:
            return not (state.connections or state.tasks or is_arriving())

        deadline = time.monotonic() + timeout_s
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

    async def shut_down(self) -> None:
        """Run the lifespan's shutdown."""
        if self._clock is not None:
            self._clock.cancel()
        await self._uvicorn.lifespan.shutdown()


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
