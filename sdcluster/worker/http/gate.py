"""The gate: the ASGI app in front of the app.

It costs nothing (it hands out the app's own coroutine) until one of two things is wanted of it:
that every response say `Connection: close`, while the worker drains, or that the age of the oldest
request be known. Both work with any version and protocol of the engine.
"""

import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from sdcluster.wire.scoreboard import Field, Scoreboard

Message = MutableMapping[str, Any]
Send = Callable[[Message], Awaitable[None]]
Receive = Callable[[], Awaitable[Message]]
App = Callable[[Message, Receive, Send], Awaitable[None]]

CLOSE = (b"connection", b"close")


class Gate:
    """Stands in for the app `app`; on `board`, if there is one, the age of requests is kept."""

    def __init__(self, app: App, board: Scoreboard | None = None) -> None:
        self._app: App = app if board is None else _Tracked(app, board)

    def __call__(self, scope: Message, receive: Receive, send: Send) -> Awaitable[None]:
        return self._app(scope, receive, send)

    def drain(self, is_last: Callable[[], bool]) -> None:
        """Make a response that begins from now on the last of its connection, if `is_last`."""
        app = self._app

        def closing(scope: Message, receive: Receive, send: Send) -> Awaitable[None]:
            if scope["type"] == "http" and is_last():
                send = _closing(send)
            return app(scope, receive, send)

        self._app = closing


class _Tracked:
    """The app, with the time when the oldest of its requests began kept on the scoreboard."""

    def __init__(self, app: App, board: Scoreboard) -> None:
        self._app = app
        self._board = board
        self._begun: dict[object, int] = {}

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        key = object()
        self._begun[key] = time.monotonic_ns()
        self._tell_oldest()
        try:
            await self._app(scope, receive, send)
        finally:
            del self._begun[key]
            self._tell_oldest()

    def _tell_oldest(self) -> None:
        # Insertion order is age.
        self._board[Field.OLDEST_REQUEST_NS] = next(iter(self._begun.values()), 0)


def _closing(send: Send) -> Send:
    async def closing(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = [one for one in message.get("headers", ()) if one[0].lower() != CLOSE[0]]
            message = {**message, "headers": [*headers, CLOSE]}
        await send(message)

    return closing
