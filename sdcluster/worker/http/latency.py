"""How long requests take until their answer begins: an ASGI app in front of the app.

On the path of every request, so it does little: two looks at the clock, and a few words written to
the scoreboard. What the master makes of them is in `wire.latency`.
"""

import time
from collections.abc import Awaitable

from sdcluster.wire import latency
from sdcluster.wire.scoreboard import Field, Scoreboard
from sdcluster.worker.http.gate import App, Message, Receive, Send

_LATENCY, _AT, _UNANSWERED = Field.LATENCY_NS, Field.LATENCY_AT_NS, Field.UNANSWERED_NS
_ANSWERS, _ANSWERS_NS = Field.ANSWERS, Field.ANSWERS_NS


class Timed:
    """The app, with what is to be known of its latency kept on the scoreboard.

    A request that gets no answer, as it is handed over, say, is not counted. Nor is what comes
    after the beginning of an answer, which may go on for as long as the client likes.
    """

    def __init__(self, app: App, board: Scoreboard) -> None:
        self._app = app
        self._words = board.words
        self._began: dict[Send, int] = {}
        """When each request began whose answer has not, oldest first."""

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = self._began

        def answering(message: Message) -> Awaitable[None]:
            if answering in began and message["type"] == "http.response.start":
                self._answered(began[answering], answering)
            return send(message)

        now = time.monotonic_ns()
        if not began:
            self._words[_UNANSWERED] = now
        began[answering] = now
        try:
            await self._app(scope, receive, answering)
        finally:
            if answering in began:
                self._forget(answering)

    def _answered(self, began: int, answering: Send) -> None:
        now, words = time.monotonic_ns(), self._words
        taken = now - began
        words[_LATENCY] = latency.observe(words[_LATENCY], words[_AT], sample_ns=taken, now_ns=now)
        words[_AT] = now
        words[_ANSWERS] += 1
        words[_ANSWERS_NS] += taken
        self._forget(answering)

    def _forget(self, answering: Send) -> None:
        del self._began[answering]
        self._words[_UNANSWERED] = next(iter(self._began.values()), 0)
