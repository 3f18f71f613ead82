"""Gives an app that runs in threads a request when there is a thread for it, and not before.

A request that waits is not begun: when the worker dies another one serves it, whatever it is. In
the queue of a pool of threads nobody could tell it from those that the app is at work on.
"""

import asyncio
import contextlib
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import ContextVar
from typing import Any, ParamSpec, TypeVar

from sdcluster.worker.http.gate import App, Message, Receive, Send
from sdcluster.worker.moving import request_connection

P = ParamSpec("P")
T = TypeVar("T")

_current: ContextVar["_Turn | None"] = ContextVar("turn", default=None)


class Pool(ThreadPoolExecutor):
    """Threads; one is free again when it has done its work, and not when a client has got that."""

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Have a thread do something in the turn of the request that it is for."""
        future = super().submit(fn, *args, **kwargs)
        turn = _current.get()
        if turn is not None:
            turn.last_until(future)
        return future


class Turns:
    """Stands before `app`, which serves each request in one of the `threads` of a `Pool`."""

    def __init__(self, app: App, *, threads: int) -> None:
        self._app = app
        self._free = asyncio.Semaphore(threads)

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        await self._free.acquire()
        turn = _Turn(self._free)
        _current.set(turn)
        try:
            connection = request_connection.current()
            if connection is not None:
                connection.work()
            await self._app(scope, receive, send)
        finally:
            turn.end()


class _Turn:
    """The right to a thread."""

    def __init__(self, free: asyncio.Semaphore) -> None:
        self._free = free
        self._loop = asyncio.get_running_loop()
        self._is_in_thread = False

    def last_until(self, future: Future[Any]) -> None:
        """Last until a thread has done its work; what it has others do is no other turn."""
        if not self._is_in_thread:
            self._is_in_thread = True
            future.add_done_callback(self._is_done)

    def _is_done(self, _future: Future[Any]) -> None:
        with contextlib.suppress(RuntimeError):  # The loop is closed: nobody waits any more.
            self._loop.call_soon_threadsafe(self._free.release)

    def end(self) -> None:
        """End, if no thread has begun."""
        if not self._is_in_thread:
            self._free.release()
