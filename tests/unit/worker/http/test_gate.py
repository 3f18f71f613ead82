"""The gate in front of the app."""

import asyncio
import mmap
import time
from collections.abc import Iterator
from typing import Any

import pytest

from sdcluster.wire.scoreboard import SIZE_BYTES, Field, Scoreboard
from sdcluster.worker.http.gate import Gate, Message, Receive, Send


@pytest.fixture
def board() -> Iterator[Scoreboard]:
    """Give a scoreboard."""
    page = mmap.mmap(-1, SIZE_BYTES)
    board = Scoreboard(page)
    yield board
    board.release()
    page.close()


async def hello(scope: Message, _receive: Receive, send: Send) -> None:
    """Answer, with a Connection header of the app's own."""
    headers = [(b"x-a", b"1"), (b"Connection", b"keep-alive")]
    await send({"type": f"{scope['type']}.response.start", "status": 200, "headers": headers})
    await send({"type": f"{scope['type']}.response.body", "body": b"hello"})


def answer(app: Gate, kind: str = "http") -> list[Message]:
    """Return what the app sends."""
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    async def receive() -> Message:
        return {"type": f"{kind}.request"}

    async def run() -> None:
        await app({"type": kind}, receive, send)

    asyncio.run(run())
    return sent


def test_open_gate_changes_nothing() -> None:
    """The app's own coroutine is handed out."""
    made: list[Any] = []

    def app(scope: Message, receive: Receive, send: Send) -> Any:
        made.append(hello(scope, receive, send))
        return made[-1]

    passed: Any = Gate(app)({"type": "http"}, None, None)  # type: ignore[arg-type]
    assert passed is made[0]
    passed.close()


def test_draining_gate_ends_each_connection_with_its_response() -> None:
    """What the app says about the connection is replaced, the rest stays."""
    app = Gate(hello)
    app.drain(lambda: True)
    start, body = answer(app)
    assert start["headers"] == [(b"x-a", b"1"), (b"connection", b"close")]
    assert start["status"] == 200 and body["body"] == b"hello"


def test_draining_gate_knows_responses_without_headers() -> None:
    """Headers are optional in ASGI."""

    async def bare(_scope: Message, _receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 204})

    app = Gate(bare)
    app.drain(lambda: True)
    assert answer(app)[0]["headers"] == [(b"connection", b"close")]


def test_draining_gate_leaves_websockets_alone() -> None:
    """They have no such header."""
    app = Gate(hello)
    app.drain(lambda: True)
    assert (b"connection", b"close") not in answer(app, "websocket")[0]["headers"]


def test_request_that_began_before_the_drain_is_not_changed() -> None:
    """Its response may be under way."""
    app = Gate(hello)
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    async def run() -> None:
        request = app({"type": "http"}, None, send)  # type: ignore[arg-type]
        app.drain(lambda: True)
        await request

    asyncio.run(run())
    assert (b"Connection", b"keep-alive") in sent[0]["headers"]


def test_oldest_request_is_on_the_scoreboard(
    board: Scoreboard, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Until it is answered or has failed; then the next oldest; then 0."""
    clock = iter(range(100, 200))
    monkeypatch.setattr(time, "monotonic_ns", lambda: next(clock))
    seen: list[int] = []

    async def run() -> None:
        doors = [asyncio.Event() for _ in range(3)]

        async def wait(scope: Message, _receive: Receive, _send: Send) -> None:
            await doors[scope["number"]].wait()
            if scope["number"] == 1:
                raise ValueError("no")

        app = Gate(wait, board)
        tasks = []
        for number in range(3):
            request = app({"type": "http", "number": number}, None, None)  # type: ignore[arg-type]
            tasks.append(asyncio.ensure_future(request))
        await asyncio.sleep(0)
        for number in (1, 0, 2):
            seen.append(board[Field.OLDEST_REQUEST_NS])
            doors[number].set()
            await asyncio.gather(tasks[number], return_exceptions=True)

    asyncio.run(run())
    assert [*seen, board[Field.OLDEST_REQUEST_NS]] == [100, 100, 102, 0]


def test_only_requests_are_tracked(board: Scoreboard) -> None:
    """A websocket may be open for days, and the lifespan is."""
    seen: list[int] = []

    async def look(_scope: Message, _receive: Receive, _send: Send) -> None:
        seen.append(board[Field.OLDEST_REQUEST_NS])

    app = Gate(look, board)
    for kind in ("websocket", "lifespan"):
        answer(app, kind)
    assert seen == [0, 0]


def test_tracked_requests_end_their_connections_while_it_drains(board: Scoreboard) -> None:
    """Both at once."""
    app = Gate(hello, board)
    app.drain(lambda: True)
    assert (b"connection", b"close") in answer(app)[0]["headers"]
    assert board[Field.OLDEST_REQUEST_NS] == 0
