"""A connection between the loop and the engine, from its beginning to its end."""

import asyncio
import contextvars
import gc
import socket
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from sdcluster.wire.channel import NEW
from sdcluster.wire.ledger import State, Word
from sdcluster.worker import handoff
from sdcluster.worker.exit import Exit
from sdcluster.worker.ledger import Ledger
from sdcluster.worker.movable import MovableConnection, Moves
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

        def make() -> MovableConnection:
            engine = Engine()
            references.append(weakref.ref(engine))
            number = server.fileno()
            connection = MovableConnection(engine, number, NEW, moves, is_unix=True)
            handoff.enter(connection)
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
        connection = MovableConnection(
            engine, server.fileno(), NEW, moves_of(ledger, client), is_unix=True
        )
        begin = engine.app
        connection.connection_made(None)
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
