"""The code of the program that runs in its master: handlers of events and of requests."""

import asyncio
import signal
from collections.abc import Callable, Coroutine
from typing import Any

from sdcluster.messaging import requests
from sdcluster.messaging.emitter import Emitter
from sdcluster.messaging.repetition import Repeating
from sdcluster.wire.messages import Frame

EVENTS = ("setup", "fork", "online", "listening", "message", "disconnect", "exit")
STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)
"""Those that end the cluster."""
TIMEOUT_S = 3.0
"""How long handlers that are coroutines may go on when the cluster has ended."""


class Handlers:
    """Those who hear the events, and what they have begun and not ended."""

    def __init__(self, loop: asyncio.AbstractEventLoop, *, on_idle: Callable[[], None]) -> None:
        """`on_idle` is told when one of what was begun has ended."""
        self.events = Emitter(EVENTS, start=self.start)
        self.answerer: Callable[..., Any] | None = None
        """What answers the requests of workers."""
        self._loop = loop
        self._on_idle = on_idle
        self._tasks: set[asyncio.Task[Any]] = set()

    @property
    def is_idle(self) -> bool:
        """Whether nothing that was begun goes on."""
        return not self._tasks

    def start(self, coroutine: Coroutine[Any, Any, Any]) -> "asyncio.Task[Any]":
        """Run a coroutine of the program's. The cluster ends after it, except by a stop."""
        task = self._loop.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        self._on_idle()

    def every(self, seconds: float, function: Callable[[], Any]) -> None:
        """Call a function every so many seconds, for as long as the cluster runs."""
        Repeating(seconds, function, start=self.start).begin(self._loop)

    def on_signal(self, number: int, function: Callable[[], Any]) -> None:
        """Call a function when this process gets a signal. Raises ValueError for `STOP_SIGNALS`."""
        if number in STOP_SIGNALS:
            raise ValueError(f"{signal.Signals(number).name} ends the cluster")
        emitter = Emitter(("signal",), start=self.start)
        emitter.on("signal")(function)
        self._loop.add_signal_handler(number, emitter.emit, "signal")

    def begin_answer(self, number: int, *arguments: Any) -> Frame | Coroutine[Any, Any, Frame]:
        """Return the answer to a request; it is to be awaited when the handler is."""
        return requests.begin_answer(self.answerer, number, *arguments)

    async def end(self) -> None:
        """Wait for what goes on, and cancel what does not end in time."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=TIMEOUT_S)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
