"""What a program is to do again and again: `every`."""

import asyncio
import math
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from sdcluster.messaging.emitter import Emitter


class Repeating:
    """Calls a function, or a coroutine function, every so many seconds.

    A time that comes while a coroutine of the time before still runs is left out. `start` is given
    the coroutines. What the function raises is logged.
    """

    def __init__(
        self,
        seconds: float,
        function: Callable[[], Any],
        *,
        start: Callable[[Coroutine[Any, Any, Any]], object],
    ) -> None:
        """Raise ValueError when `seconds` is no time that can be waited for."""
        if not 0 < seconds < math.inf:
            raise ValueError(f"{seconds!r} is no number of seconds to do something every so often")
        self._seconds = seconds
        self._function = function
        self._emitter = Emitter(("time",), start=start)
        self._emitter.on("time")(self._call)
        self._runs = False
        self._timer: asyncio.TimerHandle | None = None

    def begin(self, loop: asyncio.AbstractEventLoop) -> None:
        """Call it from now on, for the first time when the seconds have passed."""
        self._timer = loop.call_later(self._seconds, self._turn, loop)

    def _turn(self, loop: asyncio.AbstractEventLoop) -> None:
        self.begin(loop)
        if not self._runs:
            self._emitter.emit("time")

    def _call(self) -> Any:
        result = self._function()
        return self._wait(result) if isinstance(result, Awaitable) else None

    async def _wait(self, awaitable: Awaitable[Any]) -> None:
        self._runs = True
        try:
            await awaitable
        finally:
            self._runs = False

    def end(self) -> None:
        """Call it no more. Harmless when it was not begun."""
        if self._timer is not None:
            self._timer.cancel()
