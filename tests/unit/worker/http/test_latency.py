"""How long requests take until their answer begins, as it is told to the master."""

import asyncio
import mmap
import time
from collections.abc import Iterator

import pytest

from sdcluster.wire.scoreboard import SIZE_BYTES, Field, Scoreboard
from sdcluster.worker.http.gate import App, Message, Receive, Send
from sdcluster.worker.http.latency import Timed


@pytest.fixture
def board() -> Iterator[Scoreboard]:
    """Give a scoreboard."""
    page = mmap.mmap(-1, SIZE_BYTES)
    board = Scoreboard(page)
    yield board
    board.release()
    page.close()


async def receive() -> Message:
    """Return an empty body."""
    return {"type": "http.request"}


async def ask(app: App, kind: str = "http") -> list[Message]:
    """Return what the app sends."""
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    await app({"type": kind}, receive, send)
    return sent


async def answer(send: Send, kind: str = "http") -> None:
    """Answer with nothing."""
    await send({"type": f"{kind}.response.start", "status": 204})
    await send({"type": f"{kind}.response.body", "body": b""})


def test_an_answer_is_timed_until_it_begins(board: Scoreboard) -> None:
    """What comes after its beginning may go on for ever."""

    async def app(_scope: Message, _receive: Receive, send: Send) -> None:
        await asyncio.sleep(0.01)
        await send({"type": "http.response.start", "status": 200})
        assert board[Field.UNANSWERED_NS] == 0
        await asyncio.sleep(0.3)
        await send({"type": "http.response.body", "body": b""})

    sent = asyncio.run(ask(Timed(app, board)))
    assert [one["type"] for one in sent] == ["http.response.start", "http.response.body"]
    assert 0.01e9 <= board[Field.LATENCY_NS] < 0.3e9
    assert board[Field.ANSWERS] == 1
    assert board[Field.ANSWERS_NS] == board[Field.LATENCY_NS]
    assert 0 < time.monotonic_ns() - board[Field.LATENCY_AT_NS] < 5e9


def test_the_oldest_that_waits_is_told(board: Scoreboard) -> None:
    """Until it is answered; then it is the next one."""
    seen: list[int] = []

    async def run() -> None:
        gates = [asyncio.Event() for _ in range(3)]
        turn = iter(gates)

        async def app(_scope: Message, _receive: Receive, send: Send) -> None:
            await next(turn).wait()
            await answer(send)

        timed = Timed(app, board)
        tasks = []
        for _ in gates:
            tasks.append(asyncio.create_task(ask(timed)))
            await asyncio.sleep(0.001)
            seen.append(board[Field.UNANSWERED_NS])
        for index in (0, 2, 1):
            gates[index].set()
            await tasks[index]
            seen.append(board[Field.UNANSWERED_NS])

    asyncio.run(run())
    first, second = seen[0], seen[3]
    assert 0 < first < second
    assert seen == [first, first, first, second, second, 0]


def test_a_request_without_an_answer_is_not_counted(board: Scoreboard) -> None:
    """It was handed over, or the app has failed: that says nothing about how fast it is."""

    async def app(scope: Message, _receive: Receive, _send: Send) -> None:
        if scope["type"] == "http":
            raise RuntimeError("as it happens")

    with pytest.raises(RuntimeError):
        asyncio.run(ask(Timed(app, board)))
    assert board[Field.UNANSWERED_NS] == board[Field.ANSWERS] == board[Field.LATENCY_NS] == 0


@pytest.mark.parametrize("kind", ["websocket", "lifespan"])
def test_what_is_no_request_is_passed_on(board: Scoreboard, kind: str) -> None:
    """A WebSocket lives as long as it likes."""

    async def app(_scope: Message, _receive: Receive, send: Send) -> None:
        assert board[Field.UNANSWERED_NS] == 0
        await answer(send, kind)

    assert len(asyncio.run(ask(Timed(app, board), kind))) == 2
    assert board[Field.ANSWERS] == 0
