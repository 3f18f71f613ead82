"""A connection between the loop and the engine, from its beginning to its end."""

import array
import asyncio
import contextvars
import functools
import gc
import socket
import weakref
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest

from sdcluster.wire.channel import NEW
from sdcluster.wire.ledger import State, Word
from sdcluster.worker.http.application import Application
from sdcluster.worker.http.gate import Gate
from sdcluster.worker.moving import request_connection
from sdcluster.worker.moving.exit import Exit
from sdcluster.worker.moving.ledger import Ledger
from sdcluster.worker.moving.movable import Moves
from sdcluster.worker.moving.movable_unix import MovableUnixConnection
from unit.ledgers import new_ledger, none_listed


class Engine:
    """Knows its transport, as each engine's protocol does."""

    app: Any = None
    transport: Any = None

    def connection_made(self, transport: Any) -> None:
        """Begin."""
        self.transport = transport

    def data_received(self, _data: bytes) -> None:
        """Read nothing."""

    def eof_received(self) -> None:
        """Have the connection closed."""

    def connection_lost(self, _error: Exception | None) -> None:
        """End."""

    def is_waiting(self) -> bool:
        """Have nothing to do."""
        return True

    def is_to_close(self) -> bool:
        """Go on."""
        return False

    def is_more_to_come(self) -> bool:
        """Await nothing."""
        return False


def moves_of(ledger: Ledger, control: socket.socket) -> Moves:
    """Return what the connections of a worker have in common."""
    return Moves(
        ledger,
        Exit(control),
        replay="idempotent",
        proxies=None,
        is_routed=False,
        signatures=none_listed(),
        on_closed=lambda: None,
        on_refused=lambda _: None,
    )


@contextmanager
def no_collector() -> Iterator[None]:
    """Have nothing freed but by its last reference."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


@pytest.mark.parametrize("upgraded", [False, True])
def test_all_of_a_connection_is_freed_when_it_ends(upgraded: bool) -> None:
    """At once: with one request each, the collector would be a good part of the work."""
    ledger = new_ledger(4096)

    async def serve() -> list[weakref.ref[Any]]:
        control, other = socket.socketpair()
        moves = moves_of(ledger, control)
        server, client = socket.socketpair()
        references: list[weakref.ref[Any]] = []

        def make() -> MovableUnixConnection:
            engine = Engine()
            references.append(weakref.ref(engine))
            number = server.fileno()
            connection = MovableUnixConnection(engine, number, NEW, moves, server)
            request_connection.enter(connection)
            if upgraded:
                protocol = Engine()
                references.append(weakref.ref(protocol))
                connection.set_protocol(protocol)
            return connection

        async def open_it() -> None:
            await asyncio.get_running_loop().connect_accepted_socket(make, server)

        context = contextvars.copy_context()
        await asyncio.get_running_loop().create_task(open_it(), context=context)
        del context
        client.close()
        while not ledger.left:
            await asyncio.sleep(0)
        await asyncio.sleep(0)
        control.close()
        other.close()
        return references

    with no_collector():
        references = asyncio.run(serve())
        assert [reference() for reference in references] == [None] * (1 + upgraded)


def test_what_comes_late_is_not_noted_of_another_connection() -> None:
    """The app of a connection that has ended may begin when its number is another's."""
    ledger = new_ledger(4096)
    begun: list[tuple[Any, ...]] = []

    async def end() -> None:
        server, client = socket.socketpair()
        engine = Engine()
        engine.app = lambda *arguments: begun.append(arguments)
        connection = MovableUnixConnection(
            engine, server.fileno(), NEW, moves_of(ledger, client), server
        )
        begin = engine.app
        connection.connection_made(Transport())
        connection.connection_lost(None)
        ledger.enter(server.fileno(), NEW)
        connection.pin()
        begin(1, 2, 3)
        at = ledger.index(server.fileno())
        assert ledger.words[at] == State.OPEN
        assert ledger.words[at + Word.BEGUN] == 0
        server.close()
        client.close()

    asyncio.run(end())
    assert begun == [(1, 2, 3)]


class Broken(MovableUnixConnection):
    """A connection for which nothing works."""

    __slots__ = ()

    def flush(self) -> None:
        """Fail."""
        raise RuntimeError("no")

    @property
    def is_free(self) -> bool:
        """Fail."""
        raise RuntimeError("no")


class Transport(asyncio.Transport):
    """Remembers whether it was closed."""

    is_closed = False

    def is_closing(self) -> bool:
        """Tell whether it was."""
        return self.is_closed

    def abort(self) -> None:
        """Be closed."""
        self.is_closed = True

    close = abort

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Do nothing."""

    def get_write_buffer_size(self) -> int:
        """Have nothing left to write."""
        return 0


@contextmanager
def served(
    *kinds: type[MovableUnixConnection],
) -> Iterator[tuple[Moves, list[tuple[MovableUnixConnection, Transport, socket.socket]]]]:
    """Have a connection of each kind, with its transport and its client."""
    with ExitStack() as stack:
        control, _ = (stack.enter_context(one) for one in socket.socketpair())
        moves = moves_of(new_ledger(4096), control)
        made = []
        for kind in kinds:
            server, client = (stack.enter_context(one) for one in socket.socketpair())
            client.setblocking(False)
            connection = kind(Engine(), server.fileno(), NEW, moves, server)
            transport = Transport()
            connection.connection_made(transport)
            made.append((connection, transport, client))
        yield moves, made


def in_loop(test: Callable[[], None]) -> Callable[[], None]:
    """Run a test in an event loop."""

    @functools.wraps(test)
    def run() -> None:
        async def main() -> None:
            test()

        asyncio.run(main())

    return run


@in_loop
def test_connection_that_cannot_be_written_to_keeps_nothing_from_others() -> None:
    """It is closed; those after it get what was written in the same turn, and later ones too."""
    with served(MovableUnixConnection, Broken, MovableUnixConnection) as (moves, made):
        for turn in (b"first", b"second"):
            for connection, _, _ in made:
                connection.write(turn)
            moves.flush()
            for _, transport, client in made[::2]:
                assert client.recv(100) == turn
                assert not transport.is_closed
        assert made[1][1].is_closed


@pytest.mark.parametrize(
    "data", ["text", [1, 2], None, 5, array.array("Q", [1]), memoryview(array.array("Q", [1]))]
)
def test_who_sends_no_bytes_is_told(data: Any) -> None:
    """At once, so that it is known who it was; what came before is written."""

    @in_loop
    def check() -> None:
        with served(MovableUnixConnection) as (moves, ((connection, transport, client),)):
            connection.write(b"before")
            with pytest.raises(TypeError):
                connection.write(data)
            moves.flush()
            assert client.recv(100) == b"before"
            assert not transport.is_closed

    check()


@in_loop
def test_bytes_that_are_changed_later_are_sent_as_they_were() -> None:
    """What is held back is a copy of what can change."""
    with served(MovableUnixConnection) as (moves, ((connection, _, client),)):
        data = bytearray(b"before")
        connection.write(memoryview(data))  # type: ignore[arg-type]
        connection.write(data)  # type: ignore[arg-type]
        data[:] = b"after!"
        moves.flush()
        assert client.recv(100) == b"before" * 2


@in_loop
def test_connection_that_cannot_be_moved_keeps_no_other() -> None:
    """It is closed, and the others leave."""
    application = Application(
        Gate(Engine.app), access_log=False, forwarded_allow_ips="", root_path=""
    )
    with served(Broken, MovableUnixConnection, Broken, MovableUnixConnection) as (moves, made):
        for connection, _, _ in made:
            connection.get_protocol().transport = connection
            connection.get_protocol().cycle = None
        application._state.connections = {one.get_protocol() for one, _, _ in made}
        application.move_some(4)
        assert all(transport.is_closed for _, transport, _ in made)
        assert moves.serial == 2
