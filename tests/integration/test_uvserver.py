"""A handed-over listener on uvloop's loop, as asyncio.Server has it on its own."""

import asyncio
import logging
import socket
import ssl
import time
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest
from handing import Master
from unit.descriptors import none_leaked

from sdcluster.worker.sockets import uvicorn_server

uvloop = pytest.importorskip("uvloop")

DEADLINE_S = 10.0


@pytest.fixture
def master() -> Iterator[Master]:
    """Make a master's side, and see that nothing is left of it."""
    uvloop.new_event_loop().close()  # The first opens something for all of them.
    with none_leaked():
        made = Master()
        yield made
        made.close()
        assert made.closed == 1 and made.open == 0


def run(coroutine: Coroutine[Any, Any, None]) -> None:
    """Run a test on uvloop."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(coroutine)


async def repeat(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer with what was read, each line by itself."""
    while line := await reader.readline():
        writer.write(line)
    writer.close()


async def ask(client: socket.socket, text: bytes) -> bytes:
    """Return what a server answers."""
    client.setblocking(False)
    loop = asyncio.get_running_loop()
    await loop.sock_sendall(client, text)
    return await loop.sock_recv(client, 100)


async def until(condition: Callable[[], object]) -> None:
    """Turn the loop until something is so."""
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0)


def test_server_serves(master: Master) -> None:
    """Many connections at a time; each is counted until it is closed."""

    async def main() -> None:
        server = await asyncio.start_server(repeat, sock=master.listener)
        assert isinstance(server, uvicorn_server.Server)
        clients = [master.connect() for _ in range(30)]
        for client in clients:
            assert await ask(client, b"hello\n") == b"hello\n"
        assert master.counts() == (30, 30, 0)
        for client in clients:
            client.close()
        await until(lambda: master.counts() == (0, 0, 0))
        server.close()
        await server.wait_closed()

    run(main())


def test_protocols_are_told_who_their_client_is(master: Master) -> None:
    """As on any loop."""
    names: list[Any] = []

    class Protocol(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            names.extend(transport.get_extra_info(name) for name in ("peername", "sockname"))
            transport.close()

    async def main() -> None:
        loop = asyncio.get_running_loop()
        async with await loop.create_server(Protocol, sock=master.listener, backlog=5):
            client = master.connect()
            await until(lambda: names)
            assert names == [client.getsockname(), master.real.getsockname()]
            await until(lambda: master.open == 0)

    run(main())


def test_listener_on_a_path_is_served(tmp_path: Path) -> None:
    """By both methods of the loop."""
    for start in (asyncio.start_server, asyncio.start_unix_server):
        with none_leaked():
            master = Master(socket.AF_UNIX, str(tmp_path / start.__name__))

            async def main(master: Master = master, start: Any = start) -> None:
                async with await start(repeat, sock=master.listener):
                    assert await ask(master.connect(), b"hello\n") == b"hello\n"
                    master.close()
                    await until(lambda: master.open == 0)

            run(main())


@pytest.mark.usefixtures("master")
def test_other_sockets_are_served_as_before() -> None:
    """By uvloop itself, whether given as a socket or as an address."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        with socket.create_server(("127.0.0.1", 0)) as listener:
            for server in (
                await loop.create_server(asyncio.Protocol, sock=listener),
                await loop.create_server(asyncio.Protocol, "127.0.0.1", 0),
                await loop.create_server(asyncio.Protocol, host="127.0.0.1", port=0),
            ):
                assert not isinstance(server, uvicorn_server.Server)
                server.close()
                await server.wait_closed()

    run(main())


def test_address_and_socket_are_not_given_together(master: Master) -> None:
    """As with any socket."""

    async def main() -> None:
        create_server: Any = asyncio.get_running_loop().create_server
        with pytest.raises(ValueError, match="cannot be given at the same time"):
            await create_server(asyncio.Protocol, "127.0.0.1", 0, sock=master.listener)
        with pytest.raises(ValueError, match="cannot be given at the same time"):
            await create_server(asyncio.Protocol, port=0, sock=master.listener)

    run(main())


def test_server_has_the_interface_of_any(master: Master) -> None:
    """Its life, from before it serves until it is closed."""

    async def main() -> None:
        server: Any = await asyncio.start_server(repeat, sock=master.listener, start_serving=False)
        assert not server.is_serving()
        assert server.get_loop() is asyncio.get_running_loop()
        assert server.sockets == (master.listener,)
        assert "127.0.0.1" in repr(server)
        client = master.connect()
        await asyncio.sleep(0)
        assert master.counts() == (0, 0, 1)
        await server.start_serving()
        await server.start_serving()
        assert server.is_serving()
        assert await ask(client, b"hello\n") == b"hello\n"
        waiting = asyncio.ensure_future(server.wait_closed())
        await asyncio.sleep(0)
        assert not waiting.done()
        server.close()
        server.close()
        await waiting
        await server.wait_closed()
        assert not server.is_serving() and server.sockets == () and master.closed == 1
        with pytest.raises(RuntimeError, match="is closed"):
            await server.start_serving()
        with pytest.raises(RuntimeError, match="is closed"):
            await server.serve_forever()
        assert await ask(client, b"again\n") == b"again\n"  # Connections stay.
        client.close()
        await until(lambda: master.open == 0)

    run(main())


@pytest.mark.parametrize("how", ["cancel", "close"])
def test_server_serves_until_it_is_cancelled_or_closed(master: Master, how: str) -> None:
    """One caller at a time waits for that."""

    async def main() -> None:
        server = await asyncio.start_server(repeat, sock=master.listener, start_serving=False)
        forever = asyncio.ensure_future(server.serve_forever())
        await until(server.is_serving)
        with pytest.raises(RuntimeError, match="already being awaited"):
            await server.serve_forever()
        forever.cancel() if how == "cancel" else server.close()
        with pytest.raises(asyncio.CancelledError):
            await forever
        assert not server.is_serving() and master.closed == 1

    run(main())


@pytest.mark.parametrize("how", ["close_clients", "abort_clients"])
def test_server_can_close_its_connections(master: Master, how: str) -> None:
    """Those that are open."""

    async def main() -> None:
        server: Any = await asyncio.start_server(repeat, sock=master.listener)
        clients = [master.connect() for _ in range(3)]
        for client in clients:
            await ask(client, b"hello\n")
        clients.pop().close()
        await until(lambda: master.open == 2)
        getattr(server, how)()
        await until(lambda: master.open == 0)
        server.close()

    run(main())


def test_server_goes_to_sleep_when_no_more_connections_will_come(master: Master) -> None:
    """The loop is not woken for it again and again."""

    async def main() -> None:
        server = await asyncio.start_server(repeat, sock=master.listener)
        calls = []
        accept = master.listener.accept

        def counted() -> Any:
            calls.append(1)
            return accept()

        master.listener.accept = counted  # type: ignore[method-assign]
        master.channel.retire()
        await until(lambda: master.listener._silence)
        before = len(calls)
        for _ in range(100):
            await asyncio.sleep(0)
        assert len(calls) == before
        server.close()

    run(main())


def test_connections_wait_when_descriptors_are_used_up(
    master: Master, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """They are accepted when it is better; a server that was closed meanwhile stays closed."""
    monkeypatch.setattr(uvicorn_server, "EXHAUSTED_RETRY_S", 0.01)
    errors = [OSError(24, "Too many open files")] * 3
    accept = master.listener.accept

    def accept_later() -> Any:
        if errors:
            raise errors.pop()
        return accept()

    master.listener.accept = accept_later  # type: ignore[method-assign]

    async def main() -> None:
        server = await asyncio.start_server(repeat, sock=master.listener)
        client = master.connect()
        with caplog.at_level(logging.WARNING):
            assert await ask(client, b"hello\n") == b"hello\n"
        assert caplog.messages == ["cannot accept: Too many open files; connections wait"] * 3
        client.close()
        await until(lambda: master.open == 0)
        errors.append(OSError(24, "Too many open files"))
        master.connect()
        await until(lambda: not errors)
        server.close()
        await asyncio.sleep(0.03)

    run(main())


def test_connection_without_a_protocol_is_closed_and_told(master: Master) -> None:
    """The factory has raised; the next one is served."""
    told: list[Any] = []

    def factory() -> asyncio.Protocol:
        raise ZeroDivisionError("by me")

    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: told.append(context["exception"]))
        async with await loop.create_server(factory, sock=master.listener):
            for number in (1, 2):
                assert await ask(master.connect(), b"") == b""
                assert len(told) == number
            assert master.counts() == (0, 0, 0)

    run(main())
    assert isinstance(told[0], ZeroDivisionError)


def test_client_that_fails_the_tls_handshake_is_no_news(master: Master) -> None:
    """Its connection is closed."""
    told: list[Any] = []
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)

    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: told.append(context))
        options: dict[str, Any] = {"ssl": context, "ssl_handshake_timeout": 5}
        async with await loop.create_server(asyncio.Protocol, sock=master.listener, **options):
            master.connect().sendall(b"GET / HTTP/1.1\r\n\r\n")
            await until(lambda: master.counts() == (0, 0, 0) and not master.channel.outstanding())
            await until(lambda: master.open == 0)

    run(main())
    assert told == []


def test_loop_may_end_while_a_connection_is_opened(master: Master) -> None:
    """It is closed with everything else."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)

    async def main() -> None:
        server = await asyncio.start_server(repeat, sock=master.listener, ssl=context)
        master.connect()
        await until(lambda: master.open == 1)
        server.close()

    run(main())
    assert master.open == 0
