"""The memory of a ledger: taken for what is kept of requests, and given back."""

import functools
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from sdcluster.wire.channel import NEW, Handoff
from sdcluster.wire.ledger import NOT_KNOWN, PAGE_BYTES, State, Word
from sdcluster.worker.moving import ledger as ledger_module
from sdcluster.worker.moving.ledger import KEPT_NUMBERS, Ledger
from sdcluster.worker.moving.movable_unix import MovableUnixConnection
from unit.ledgers import new_ledger
from unit.worker.moving.test_movable import Engine, Transport, in_loop, moves_of

LIMIT = 64 * 1024
LARGE = 60_000


def memory(ledger: Ledger) -> int:
    """Return how many bytes of memory a ledger takes."""
    return os.fstat(ledger.fd).st_blocks * 512


class Connections:
    """Connections of a worker, which read what they are sent, and answer nothing by themselves."""

    def __init__(self, stack: ExitStack) -> None:
        control, _ = (stack.enter_context(one) for one in socket.socketpair())
        self._socket = socket.socket()
        self._socket.close()  # What is read is not looked at first.
        self.ledger = new_ledger(LIMIT)
        self.empty = memory(self.ledger)
        self.moves = moves_of(self.ledger, control)

    def make(self, number: int, came_with: Handoff = NEW) -> MovableUnixConnection:
        """Make the connection of a number."""
        self.ledger.begin_taking()
        self.ledger.enter(number, came_with)
        self.ledger.end_taking()
        made = MovableUnixConnection(Engine(), number, came_with, self.moves, self._socket)
        made.connection_made(Transport())
        return made

    def memory(self) -> int:
        """Return how much more memory there is than at first, but for that of entries."""
        return memory(self.ledger) - self.empty

    def state(self, number: int) -> int:
        """Return what is written down of a connection."""
        return int(self.ledger.words[self.ledger.index(number) + Word.STATE])


def read(connection: MovableUnixConnection, length: int) -> None:
    """Have a connection read so much."""
    while length:
        buffer = connection.get_buffer(-1)
        some = min(length, len(buffer))
        buffer[:some] = b"x" * some
        connection.buffer_updated(some)
        length -= some


def can_move(connection: MovableUnixConnection) -> bool:
    """Tell whether it can go elsewhere with what it has read."""
    return connection.is_movable


@pytest.fixture
def connections() -> Iterator[Connections]:
    """Have a worker's ledger."""
    with ExitStack() as stack:
        yield Connections(stack)


Test = Callable[[Connections], None]


def looped(test: Test) -> Test:
    """Run a test in an event loop."""

    @functools.wraps(test)
    def run(connections: Connections) -> None:
        in_loop(lambda: test(connections))()

    return run


@looped
def test_memory_is_given_back_when_connections_close(connections: Connections) -> None:
    """Also with half a request; the first numbers have a page at hand for the next one."""
    count = 600
    made = [connections.make(number) for number in range(count)]
    for one in made:
        read(one, LARGE)
    assert connections.memory() > count * LARGE
    for one in made:
        one.connection_lost(None)
    entries = count * 256 + 4 * PAGE_BYTES
    assert connections.memory() <= KEPT_NUMBERS * PAGE_BYTES + entries
    read(connections.make(0), LARGE)


@looped
def test_memory_of_a_large_request_is_given_back_when_it_is_answered(
    connections: Connections,
) -> None:
    """The connection stays, and can go elsewhere with its next one."""
    made = connections.make(9)
    read(made, LARGE)
    made.answered()
    assert connections.memory() <= 4 * PAGE_BYTES
    read(made, 100)
    assert can_move(made)


@looped
def test_request_that_is_not_kept_takes_no_memory(connections: Connections) -> None:
    """But for its head."""
    made = connections.make(9)
    read(made, LIMIT)
    assert can_move(made)
    read(made, 1)
    assert not can_move(made)
    assert connections.memory() <= 16 * 1024 + 4 * PAGE_BYTES
    read(made, LIMIT)
    assert connections.memory() <= 16 * 1024 + 4 * PAGE_BYTES


@looped
def test_memory_of_a_ledger_is_bounded(connections: Connections) -> None:
    """Requests that come when it is used up are not kept; those that were kept are kept on."""
    most = 10 * LIMIT
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ledger_module, "MAX_KEPT_BYTES", most)
        made = [connections.make(number) for number in range(50)]
        for one in made:
            read(one, LARGE)
        assert connections.memory() <= most + len(made) * PAGE_BYTES + 8 * PAGE_BYTES
        kept = [can_move(one) for one in made]
        assert kept[:10] == [True] * 10 and not any(kept[11:])
        assert {connections.state(number) for number in range(11, 50)} == {State.PINNED}
        read(made[20], 2 * LIMIT)
        assert connections.memory() <= most + len(made) * PAGE_BYTES + 8 * PAGE_BYTES
        # What is short is kept all the same; and all is as before when there is room again.
        for one in made[:5]:
            one.connection_lost(None)
        made[20].answered()
        assert connections.state(20) == State.OPEN
        read(made[20], LARGE)
        assert can_move(made[20])


@looped
def test_connection_that_comes_when_memory_is_used_up_is_served_here(
    connections: Connections,
) -> None:
    """Nothing is kept of what it has come with, and nobody is told that there is."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ledger_module, "MAX_KEPT_BYTES", LIMIT)
        handoff = Handoff(unanswered=b"x" * LARGE, consumed=LARGE)
        first, second = connections.make(1, handoff), connections.make(2, handoff)
        assert can_move(first) and not can_move(second)
        assert [connections.state(number) for number in (1, 2)] == [State.OPEN, State.PINNED]
        second.answered()
        assert can_move(second)
        assert connections.state(2) == State.OPEN


@looped
def test_memory_is_given_back_early_when_much_is_used(connections: Connections) -> None:
    """Else idle connections, which keep some pages, might have all that there is."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ledger_module, "MAX_KEPT_BYTES", 40 * 3 * PAGE_BYTES)
        for number in range(100):
            made = connections.make(number)
            read(made, 3 * PAGE_BYTES)
            assert can_move(made)
            made.answered()
        assert connections.memory() <= (20 * 3 + 100 + 8) * PAGE_BYTES


@looped
def test_what_is_behind_an_answered_request_is_moved_up_for_more(connections: Connections) -> None:
    """It is kept as long as it fits, and nothing is known wrongly meanwhile."""
    made = connections.make(3)
    read(made, LARGE)
    made.answered(1000)
    assert made.base == LARGE - 1000
    assert can_move(made)
    read(made, LIMIT - 1000)
    assert can_move(made)
    index = connections.ledger.index(3)
    words = connections.ledger.words
    assert words[index + Word.IN_BASE] == made.base == LARGE - 1000
    assert words[index + Word.LENGTH] == LIMIT
    assert words[index + Word.IN_END] == 0
    read(made, 1)
    assert not can_move(made)
    made.get_buffer(-1)
    assert words[index + Word.LENGTH] == NOT_KNOWN
