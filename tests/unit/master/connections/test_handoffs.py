"""Connections for the worker of one slot, with fakes for loop and workers."""

import os
import socket
from collections.abc import Iterator
from dataclasses import replace
from typing import cast

import pytest
from waiting import wait_until

from sdcluster.master.connections import handoffs
from sdcluster.master.connections.channels import Passage, Untaken, WorkerChannel
from sdcluster.wire.channel import ANY, Handoff, Terms
from unit.master.connections.test_dispatch import FakeUntaken, FakeWorker, Scene

FULL = BlockingIOError()
CAME = Handoff(unanswered=b"GET / HTTP/1.1\r\n\r\n", slot=1, hops=1, consumed=18)


class Handed(FakeUntaken):
    """Connections with what they had elsewhere, which a dead worker has not taken."""

    def __init__(self, passages: list[Passage]) -> None:
        super().__init__(*([one.fd] for one in passages))
        self._passages = passages

    def take(self) -> list[Passage]:
        """Return the next one."""
        self.frames.pop(0)
        return [self._passages.pop(0)]


class Handing(Scene):
    """A dispatcher with a worker in each of two slots, of three."""

    def __init__(self) -> None:
        super().__init__(0)
        self._clients: list[socket.socket] = []
        self.dispatcher.set_slots(3)
        self.join(0)
        self.join(1)

    def join(self, slot: int) -> None:
        """Have a worker begin to serve."""
        self.workers.append(worker := FakeWorker())
        self.dispatcher.add(cast(WorkerChannel, worker), slot=slot)

    def come(self, handoff: Handoff = CAME) -> None:
        """Have a worker hand a connection over."""
        ours, client = socket.socketpair()
        self._clients.append(client)
        self.dispatcher.hand_over(Passage(ours.detach(), handoff))

    def pass_time(self, seconds: float) -> None:
        """Have time pass, and all timers go off."""
        self.loop.now += seconds
        self.loop.wait()

    def handed(self) -> list[list[Handoff]]:
        """What each worker was handed over."""
        return [worker.handoffs for worker in self.workers]

    def open(self) -> int:
        """How many connections are still open somewhere, as their clients see it."""
        count = 0
        for client in self._clients:
            client.setblocking(False)
            try:
                count += client.recv(1) != b""
            except BlockingIOError:
                count += 1
        return count

    def close(self) -> None:
        """Close all."""
        super().close()
        for client in self._clients:
            client.close()


@pytest.fixture
def scene() -> Iterator[Handing]:
    """Return a scene that is cleared away."""
    one = Handing()
    yield one
    one.close()


def test_connection_goes_to_the_worker_of_its_slot(scene: Handing) -> None:
    """At once, as it came."""
    scene.come()
    scene.come(replace(CAME, slot=0))
    assert scene.handed() == [[replace(CAME, slot=0)], [CAME]]
    assert not scene.loop.timers


def test_connection_whose_worker_has_no_room_waits_for_it(scene: Handing) -> None:
    """And goes to nobody else; those of other slots are not held up."""
    scene.workers[1].error = FULL
    scene.come()
    scene.come(replace(CAME, slot=0))
    assert scene.handed() == [[replace(CAME, slot=0)], []] and scene.workers[1].asked
    scene.pass_time(0.5)
    assert scene.handed()[1] == []
    scene.workers[1].error = None
    scene.dispatcher.room()
    assert scene.handed() == [[replace(CAME, slot=0)], [CAME]]


def test_room_that_nobody_told_of_is_found(scene: Handing) -> None:
    """A worker may have no time to tell, or no room in its own channel."""
    scene.workers[1].error = FULL
    scene.come()
    scene.workers[1].error = None
    scene.pass_time(handoffs.RETRY_S)
    assert scene.handed() == [[], [CAME]] and not scene.loop.timers


def test_connections_keep_their_turn(scene: Handing) -> None:
    """One that comes when there is room again does not overtake one that waits."""
    scene.workers[1].error = FULL
    scene.come()
    scene.workers[1].error = None
    scene.come(replace(CAME, hops=3))
    assert scene.handed()[1] == []
    scene.pass_time(handoffs.RETRY_S)
    assert [one.hops for one in scene.handed()[1]] == [1, 3]


def test_connection_that_has_waited_too_long_for_room_is_refused(scene: Handing) -> None:
    """Whoever has room gets it to say so, without the request."""
    scene.workers[1].error = FULL
    scene.come()
    scene.pass_time(1.1)
    assert scene.handed() == [
        [replace(CAME, slot=ANY, terms=Terms.REFUSE, unanswered=b"GET /")],
        [],
    ]


def test_connection_for_a_worker_without_descriptors_waits_for_some(scene: Handing) -> None:
    """As for room, and no longer than that."""
    scene.workers[1].starved = 1
    scene.come()
    scene.pass_time(0.5)
    assert scene.handed() == [[], []]
    scene.workers[1].starved = 0
    scene.pass_time(handoffs.RETRY_S)
    assert scene.handed() == [[], [CAME]]
    scene.workers[1].starved = 1
    scene.come()
    scene.pass_time(1.1)
    assert [one.terms for one in scene.handed()[0]] == [Terms.REFUSE]


def test_connection_that_asks_nothing_waits_for_no_worker(scene: Handing) -> None:
    """There is nothing to refuse: whoever has room gets it, to see whose the next request is."""
    idle = replace(CAME, unanswered=b"", hops=0)
    scene.workers[1].error = FULL
    scene.come(idle)
    scene.come(replace(idle, slot=2))
    scene.loop.wait()
    assert scene.handed() == [[replace(idle, slot=ANY)] * 2, []]


def test_what_is_refused_is_known_to_want_no_body(scene: Handing) -> None:
    """The response to HEAD has none."""
    scene.dispatcher.set_handoffs(timeout_s=0.0)
    scene.workers[1].error = FULL
    scene.come(replace(CAME, unanswered=b"\r\nHEAD / HTTP/1.1\r\n\r\n", consumed=21))
    scene.loop.wait()
    assert [one.unanswered for one in scene.handed()[0]] == [b"HEAD "]


def test_what_waits_when_the_cluster_ends_is_for_anybody(scene: Handing) -> None:
    """In the next one that may be another slot's."""
    scene.workers[1].error = FULL
    scene.come()
    left = scene.dispatcher.left()
    assert [one.handoff for one in left] == [replace(CAME, slot=ANY)]
    for one in left:
        os.close(one.fd)
    assert scene.dispatcher.left() == []


def test_connection_of_a_slot_without_worker_waits_for_the_next_one(scene: Handing) -> None:
    """One that crashed is soon replaced."""
    scene.come(replace(CAME, slot=2))
    scene.pass_time(0.5)
    assert scene.handed() == [[], []]
    scene.join(2)
    assert scene.handed() == [[], [], [replace(CAME, slot=2)]]


def test_connection_of_a_slot_that_stays_without_worker_is_served_by_another(
    scene: Handing,
) -> None:
    """After the time that is set."""
    scene.dispatcher.set_handoffs(timeout_s=3.0)
    scene.come(replace(CAME, slot=2))
    scene.pass_time(2.9)
    assert scene.handed() == [[], []]
    scene.pass_time(0.2)
    assert scene.handed() == [[replace(CAME, slot=ANY, terms=Terms.STAND_IN)], []]


def test_connection_that_may_not_wait_is_judged_at_once(scene: Handing) -> None:
    """With a time-out of 0."""
    scene.dispatcher.set_handoffs(timeout_s=0.0)
    scene.workers[1].error = FULL
    scene.come()
    scene.come(replace(CAME, slot=2))
    scene.loop.wait()  # It is the other's turn, which takes nothing.
    terms = [one.terms for one in scene.handed()[0]]
    assert terms == [Terms.REFUSE, Terms.STAND_IN]


def test_connection_of_a_slot_that_is_gone_for_good_is_looked_at_anew(scene: Handing) -> None:
    """By whoever gets it, who knows how many slots there are."""
    scene.come(replace(CAME, slot=3))
    assert scene.handed() == [[replace(CAME, slot=ANY)], []]


def test_dead_workers_connections_go_to_the_next_worker_of_its_slot(scene: Handing) -> None:
    """Those that were handed over to it and that it had not taken."""
    scene.come()
    worker = scene.workers[1]
    passages = [Passage(fd, one) for fd, one in zip(worker.given, worker.handoffs, strict=True)]
    worker.frames = []
    scene.dispatcher.remove(scene.channel(1))
    scene.dispatcher.give_back(cast(Untaken, Handed(passages)))
    assert scene.handed()[0] == []
    scene.join(1)
    assert scene.handed()[2] == [CAME]


def test_what_waits_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is too much for one worker is refused at once, and those for others are not."""
    monkeypatch.setattr(handoffs, "MAX_SLOT_BYTES", 2 * len(CAME.unanswered))
    one = Handing()
    one.workers[1].error = FULL
    for _ in range(3):
        one.come()
    one.come(replace(CAME, slot=0))
    assert [each.terms for each in one.handed()[0]] == [Terms.REFUSE, Terms.PASS_ON]
    assert one.open() == 4
    one.close()


def test_what_waits_at_the_end_is_closed() -> None:
    """Nobody is left to serve it."""
    one = Handing()
    one.workers[1].error = FULL
    one.come()
    one.dispatcher.close()
    wait_until(lambda: one.open() == 0, "it is closed")
    one.close()
