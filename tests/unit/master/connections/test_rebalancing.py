"""When workers are looked at, and told to move connections."""

import os
import socket
from collections.abc import Callable, Iterator
from typing import NamedTuple

import pytest

from sdcluster.core.balance import Rules
from sdcluster.core.rebalance import SLOW_LOOKS
from sdcluster.master.connections.channels import WorkerChannel
from sdcluster.master.connections.dispatch import Seat
from sdcluster.master.connections.rebalancing import LOOK_S, MIN_ANSWERS, STALE_S, Rebalancing
from sdcluster.wire.channel import decode_move
from sdcluster.wire.scoreboard import Field

MS = 1_000_000


class Worker(NamedTuple):
    """A worker, with the end of the channel that is its own."""

    seat: Seat

    @property
    def channel(self) -> WorkerChannel:
        """The master's end."""
        return self.seat.channel

    def orders(self) -> list[tuple[int, int]]:
        """Return the orders that have come, and are not carried out."""
        found = []
        with socket.socket(fileno=os.dup(self.channel.descriptors()[0])) as theirs:
            while True:
                try:
                    found.append(decode_move(theirs.recv(100, socket.MSG_DONTWAIT), 0))
                except BlockingIOError:
                    return found

    def carries_out(self) -> None:
        """Say so."""
        self.channel.board[Field.MOVES] += 1


class Scene:
    """Workers, looked at once a second."""

    def __init__(self, *connections: int, rules: Rules) -> None:
        self.now = 1000.0
        self.rules = rules
        self.rebalancing = Rebalancing()
        self.workers = [Worker(Seat(WorkerChannel(), 1, slot)) for slot in range(len(connections))]
        self.have(*connections)

    def have(self, *connections: int) -> None:
        """Have so many connections in each worker."""
        for worker, count in zip(self.workers, connections, strict=True):
            worker.channel.board[Field.CONNECTIONS] = count

    def look(self, *, but: int = -1) -> list[int]:
        """Look, a second later, and return who has orders; worker `but` has not turned its loop."""
        self.now += 1
        for worker in self.workers:
            age_s = STALE_S + 1 if worker.seat.slot == but else 0.1
            worker.channel.board[Field.HEARTBEAT_NS] = int((self.now - age_s) * 1e9)
        self.rebalancing.look([worker.seat for worker in self.workers], self.rules, self.now)
        return [worker.seat.slot for worker in self.workers if worker.channel.is_moving]


Set = Callable[..., Scene]


@pytest.fixture
def scene() -> Iterator[Set]:
    """Make scenes, and close them."""
    scenes: list[Scene] = []

    def make(*connections: int, rules: Rules | None = None) -> Scene:
        scenes.append(Scene(*connections, rules=rules or Rules()))
        return scenes[-1]

    yield make
    for one in scenes:
        for worker in one.workers:
            worker.channel.close()


def test_the_worker_with_too_many_is_told_to_give_some_away(scene: Set) -> None:
    """How many, and to whom."""
    one = scene(30, 0, 0)
    assert one.look() == [0]
    assert one.workers[0].orders() == [(10, 1), (10, 2)]


def test_nothing_is_told_until_all_is_done_and_has_settled(scene: Set) -> None:
    """Connections that are on their way are counted by nobody."""
    one = scene(30, 0)
    assert one.look() == [0]
    for _ in range(5):
        assert one.look() == [0]
    one.workers[0].carries_out()
    one.have(15, 0)  # The others have not arrived.
    assert one.look() == []
    one.have(15, 15)
    assert one.look() == []
    one.have(30, 0)
    assert one.look() == [0]
    assert one.workers[0].orders() == [(15, 1), (15, 1)]


def test_looks_are_a_second_apart(scene: Set) -> None:
    """However often the master turns."""
    one = scene(0, 0)
    one.look()
    one.have(30, 0)
    one.now += LOOK_S / 2 - 1
    assert one.look() == []
    assert one.look() == [0]


def test_worker_that_is_stuck_is_left_out(scene: Set) -> None:
    """Nothing goes to it, nothing is asked of it, and nobody waits for it."""
    one = scene(30, 0, 0)
    assert one.look(but=2) == [0]
    assert one.workers[0].orders() == [(15, 1)]
    one = scene(30, 0, 0)
    assert one.look(but=0) == []
    one = scene(30, 0, 0)
    assert one.look() == [0]  # And then it is stuck.
    one.have(30, 20, 0)
    assert one.look(but=0) == [0]
    assert one.look(but=0) == [0, 1]
    assert one.workers[1].orders() == [(10, 2)]


def test_worker_that_does_not_take_what_it_was_given_is_left_out(scene: Set) -> None:
    """It has enough to do."""
    one = scene(30, 0, 0)
    one.workers[1].seat.chosen = 1
    assert one.look() == [0]
    assert one.workers[0].orders() == [(15, 2)]


def test_order_that_cannot_be_sent_is_none(scene: Set) -> None:
    """The worker is dead, and will be reaped."""
    one = scene(30, 0)
    one.workers[0].channel.retire()
    assert one.look() == []


def test_shares_are_by_weight_and_within_the_limit(scene: Set) -> None:
    """As the config has them."""
    one = scene(40, 0, rules=Rules(weights=(1, 3)))
    one.look()
    assert one.workers[0].orders() == [(30, 1)]
    one = scene(40, 0, rules=Rules(weights=(1, 3), max_connections=25))
    one.look()
    assert one.workers[0].orders() == [(25, 1)]


def answered(worker: Worker, times: int, each_ms: int) -> None:
    """Have a worker answer so often."""
    worker.channel.board[Field.ANSWERS] += times
    worker.channel.board[Field.ANSWERS_NS] += times * each_ms * MS


def test_worker_whose_answers_take_long_has_less(scene: Set) -> None:
    """On average, and for several looks with enough answers."""
    one = scene(10, 10)
    for turn in range(SLOW_LOOKS):
        assert one.look() == [], turn
        answered(one.workers[0], MIN_ANSWERS - 1, 100)
        answered(one.workers[1], 1000, 2)
        assert one.look() == [], turn
        answered(one.workers[0], 1, 100)
        answered(one.workers[1], 1000, 2)
    assert one.look() == [0]
    assert one.workers[0].orders() == [(6, 1)]


def test_figures_that_make_no_sense_harm_nobody(scene: Set) -> None:
    """A worker may write what it likes to its page."""
    one = scene(10, 10)
    for answers, taken_ns in [(2**64 - 1, 0), (5, 2**64 - 1), (2**63, 7), (0, 0)]:
        one.workers[0].channel.board[Field.ANSWERS] = answers
        one.workers[0].channel.board[Field.ANSWERS_NS] = taken_ns
        assert one.look() == []
