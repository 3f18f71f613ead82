"""A connection that is closed when its client has read, or does nothing any more."""

import asyncio
import socket
from collections.abc import Callable
from contextlib import suppress

import pytest
import uvloop

from sdcluster.worker.moving import lingering
from sdcluster.worker.moving.lingering import Lingering

LOOPS = [asyncio.new_event_loop, uvloop.new_event_loop]
UNREAD = b"x" * 300_000


class Before(asyncio.Protocol):
    """Waits for the end of its connection."""

    def __init__(self) -> None:
        self.lost = asyncio.get_running_loop().create_future()

    def connection_lost(self, error: Exception | None) -> None:
        """Tell."""
        self.lost.set_result(error)


async def linger(server: socket.socket, among: set[Lingering], data: bytes = b"") -> Before:
    """Have one side of a connection linger, with something unwritten."""
    transport, before = await asyncio.get_running_loop().connect_accepted_socket(Before, server)
    transport.write(data)
    scratch = memoryview(bytearray(65536))
    Lingering(transport, server.fileno(), before, scratch=scratch, among=among)
    return before


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have it be over soon."""
    monkeypatch.setattr(lingering, "SILENCE_S", 0.05)


@pytest.fixture(params=LOOPS)
def run(request: pytest.FixtureRequest) -> Callable[..., object]:
    """Run a coroutine in a loop of each kind."""

    def run_in_loop(coroutine: object) -> object:
        with asyncio.Runner(loop_factory=request.param) as runner:
            return runner.run(asyncio.wait_for(coroutine, 10))  # type: ignore[arg-type]

    return run_in_loop


def test_it_is_closed_when_the_client_closes(run: Callable[..., object]) -> None:
    """At once, and all that was written has come before."""

    async def test() -> None:
        among: set[Lingering] = set()
        client, server = socket.socketpair()
        client.setblocking(False)
        loop = asyncio.get_running_loop()
        before = await linger(server, among, UNREAD)
        assert [one.is_awaited for one in among] == [True]
        await loop.sock_sendall(client, UNREAD)
        received = b""
        while part := await loop.sock_recv(client, 65536):
            received += part
        assert received == UNREAD
        assert [one.is_awaited for one in among] == [False]
        client.close()
        assert await before.lost is None
        assert not among

    run(test())


@pytest.mark.usefixtures("short")
def test_it_is_closed_when_nothing_moves(run: Callable[..., object]) -> None:
    """Whether or not the client has read what was written."""

    async def test() -> None:
        for data in (b"", UNREAD):
            among: set[Lingering] = set()
            client, server = socket.socketpair()
            with client:
                before = await linger(server, among, data)
                await before.lost
            assert not among

    run(test())


@pytest.mark.usefixtures("short")
def test_it_is_closed_in_the_end(
    run: Callable[..., object], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though the client sends on and on."""
    monkeypatch.setattr(lingering, "DEADLINE_S", 0.3)

    async def test() -> None:
        client, server = socket.socketpair()
        with client:
            client.setblocking(False)
            before = await linger(server, set())
            with suppress(ConnectionError):
                while not before.lost.done():
                    await asyncio.get_running_loop().sock_sendall(client, UNREAD)
            await before.lost

    run(test())
