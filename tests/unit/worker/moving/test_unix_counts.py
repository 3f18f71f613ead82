"""What is known of a Unix socket's bytes when its worker has stopped anywhere."""

import contextlib
import os
import socket
from collections.abc import Iterator

import pytest

from sdcluster.wire.channel import NEW
from sdcluster.wire.ledger import NOT_KNOWN, Head, Word
from sdcluster.worker.moving.ledger import Ledger
from sdcluster.worker.moving.unix_counts import Peek, Pipe, settle, totals
from unit.ledgers import new_ledger

DATA = b"0123456789"


@pytest.fixture
def ledger() -> Iterator[Ledger]:
    """Make one."""
    made = new_ledger(4096)
    yield made
    made.close()


@pytest.fixture
def pair(ledger: Ledger) -> Iterator[tuple[socket.socket, socket.socket]]:
    """Return a connection that is entered, and its client."""
    server, client = socket.socketpair()
    server.setblocking(False)
    ledger.enter(server.fileno(), NEW)
    with server, client:
        yield server, client


@pytest.fixture
def server(pair: tuple[socket.socket, socket.socket]) -> socket.socket:
    """Return a connection that is entered."""
    return pair[0]


@pytest.fixture
def client(pair: tuple[socket.socket, socket.socket]) -> socket.socket:
    """Return its client."""
    return pair[1]


def note(ledger: Ledger, server: socket.socket, word: Word, value: int) -> None:
    """Write a word of the connection's entry."""
    ledger.words[ledger.index(server.fileno()) + word] = value


@pytest.mark.parametrize("read", [0, 4, 10])
@pytest.mark.parametrize("more", [b"", b"more"])
def test_what_is_read_is_what_is_no_longer_unread(
    ledger: Ledger, server: socket.socket, client: socket.socket, read: int, more: bytes
) -> None:
    """Whatever comes after it was looked at."""
    client.send(DATA)
    room = memoryview(bytearray(100))
    assert Peek(server).look(room) == len(DATA)
    assert room[: len(DATA)] == DATA
    note(ledger, server, Word.LENGTH, 7)
    note(ledger, server, Word.READING, 7 + len(DATA))
    if more:
        client.send(more)
    if read:
        server.recv(read)
    settle(ledger, server.fileno())
    assert totals(ledger, server.fileno()) == (7 + read, 0)
    assert ledger.words[ledger.index(server.fileno()) + Word.LENGTH] == 7 + read


def test_look_that_nobody_has_read_after_begins_anew(
    server: socket.socket, client: socket.socket
) -> None:
    """As that of a worker which takes over from a dead one."""
    client.send(DATA)
    room = memoryview(bytearray(100))
    assert Peek(server).look(room[:3]) == 3
    assert Peek(server).look(room) == len(DATA)
    server.recv(100)
    assert Peek(server).look(room) == 0


def test_where_the_kernel_notes_nothing_there_is_no_look(server: socket.socket) -> None:
    """As with what is no socket any more."""
    server.close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        Peek(server)


def test_what_is_written_is_what_is_no_longer_in_the_pipe(
    ledger: Ledger, server: socket.socket, client: socket.socket
) -> None:
    """All, nothing, or as much as there was room for."""
    pipe = Pipe(ledger)
    note(ledger, server, Word.OUT_DONE, 5)
    assert pipe.fill(DATA)
    assert totals(ledger, server.fileno()) == (0, 5)
    note(ledger, server, Word.WRITING, 5 + len(DATA))
    assert totals(ledger, server.fileno()) == (0, 5)
    assert pipe.pour(server.fileno(), len(DATA)) == len(DATA)
    assert totals(ledger, server.fileno()) == (0, 5 + len(DATA))
    assert client.recv(100) == DATA

    with contextlib.suppress(BlockingIOError):
        while True:
            server.send(bytes(4096))
    assert pipe.fill(DATA)
    assert pipe.pour(server.fileno(), len(DATA)) == 0
    settle(ledger, server.fileno())
    assert totals(ledger, server.fileno()) == (0, 5)


def test_pipe_takes_all_or_nothing(ledger: Ledger, server: socket.socket) -> None:
    """What is larger than it is, or comes when the app has closed it, goes another way."""
    pipe = Pipe(ledger)
    assert not pipe.fill(bytes(1_000_000))
    assert pipe.fill(DATA)
    pipe.drain(len(DATA))
    assert pipe.pour(server.fileno(), len(DATA)) == 0
    os.close(ledger.words[Head.PIPE] - 1)
    assert not pipe.fill(DATA)
    assert pipe.pour(server.fileno(), len(DATA)) == 0
    note(ledger, server, Word.WRITING, 10)
    assert totals(ledger, server.fileno()) == (NOT_KNOWN, NOT_KNOWN)


def test_words_that_make_no_sense_say_nothing(ledger: Ledger, server: socket.socket) -> None:
    """A worker's app may have written anything."""
    pipe = Pipe(ledger)
    assert pipe.fill(DATA)
    note(ledger, server, Word.WRITING, 3)
    assert totals(ledger, server.fileno()) == (NOT_KNOWN, NOT_KNOWN)
