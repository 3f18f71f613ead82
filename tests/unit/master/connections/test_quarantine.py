"""The master's side of the quarantine: connections wait for a worker that has nothing else."""

import contextlib
import os
import socket
from collections.abc import Iterator
from typing import cast

import pytest

from sdcluster.core.quarantine import LONGEST_WAIT_S, MAX_WAITING, SURVIVALS
from sdcluster.master.connections.channels import Passage, WorkerChannel
from sdcluster.master.connections.quarantine import BUSY, Quarantine
from sdcluster.system.event_loop import EventLoop
from sdcluster.wire import channel
from sdcluster.wire.channel import Handoff, decode_handoff
from sdcluster.wire.scoreboard import Field
from unit.master.connections.test_dispatch import FakeLoop

BAD = 0xBAD | 1
REQUEST = b"GET /bad HTTP/1.1\r\n\r\n"


class Scene:
    """A quarantine, a worker of it, and what it has said."""

    def __init__(self) -> None:
        self.loop = FakeLoop()
        self.passed: list[Passage] = []
        self.signatures: list[tuple[int, ...]] = []
        self.workers: list[int] = []
        self.clients: list[socket.socket] = []
        self.quarantine = Quarantine(
            cast(EventLoop, self.loop),
            pass_on=self.passed.append,
            on_signatures=self.signatures.append,
            on_workers=self.workers.append,
        )
        self.worker = WorkerChannel()
        self.end = socket.socket(fileno=os.dup(self.worker.descriptors()[0]))
        self.end.setblocking(False)

    def passage(self, *, crashes: int = 0, slot: int = channel.ANY) -> Passage:
        """Return a connection of a new client, with a request that is unanswered."""
        server, client = socket.socketpair()
        self.clients.append(client)
        return Passage(
            server.detach(),
            Handoff(
                unanswered=REQUEST,
                signature=BAD,
                consumed=len(REQUEST),
                crashes=crashes,
                deaths=crashes,
                slot=slot,
            ),
        )

    def take(self) -> Handoff:
        """Take what the worker was given, as it does. Raises BlockingIOError."""
        data, fds, _, _ = socket.recv_fds(self.end, channel.MAX_HANDOFF_BYTES, 1)
        self.clients[0:0] = [socket.socket(fileno=fd) for fd in fds]
        board = self.worker.board
        board[Field.CONNECTIONS] += 1
        board[Field.TAKEN] += 1
        return decode_handoff(data, len(fds))

    def answer(self) -> None:
        """Have the worker have no connection any more, and say so."""
        self.worker.board[Field.CONNECTIONS] -= 1
        self.quarantine.room()

    def renew(self) -> None:
        """Have the next worker, after this one has died."""
        self.end.close()
        self.worker.close()
        self.worker = WorkerChannel()
        self.end = socket.socket(fileno=os.dup(self.worker.descriptors()[0]))
        self.end.setblocking(False)
        self.quarantine.add(self.worker)

    def close(self) -> None:
        """Let go of everything."""
        self.quarantine.stop()
        self.quarantine.close()
        for passage in self.passed:
            os.close(passage.fd)
        for client in self.clients:
            client.close()
        self.worker.close()
        self.end.close()


@pytest.fixture
def scene() -> Iterator[Scene]:
    """Return a scene, and close it."""
    made = Scene()
    yield made
    made.close()


def test_connections_of_no_suspect_are_not_taken(scene: Scene) -> None:
    """New ones, idle ones, those whose request no app has seen, and those that are refused."""
    server, client = socket.socketpair()
    scene.clients += [server, client]
    for handoff in (None, Handoff(), Handoff(deaths=1, unanswered=b"GET"), Handoff(crashes=1)):
        assert not scene.quarantine.takes(Passage(server.fileno(), handoff))
    refused = Handoff(crashes=2, unanswered=b"GET", refusal=502)
    assert not scene.quarantine.takes(Passage(server.fileno(), refused))
    assert scene.workers == []


def test_suspects_are_given_to_a_worker_one_after_the_other(scene: Scene) -> None:
    """The next one when the one before is answered."""
    for crashes in (1, 2):
        assert scene.quarantine.takes(scene.passage(crashes=crashes))
    assert scene.workers == [1]
    scene.quarantine.add(scene.worker)
    assert scene.take().crashes == 1
    with pytest.raises(BlockingIOError):
        scene.take()
    scene.answer()
    assert scene.take().crashes == 2
    scene.answer()
    assert scene.workers == [1, 0]
    assert scene.passed == []


def test_client_that_has_gone_is_not_served(scene: Scene) -> None:
    """It would have killed a worker for nothing."""
    for crashes in (1, 2):
        scene.quarantine.takes(scene.passage(crashes=crashes))
    scene.clients[0].close()
    scene.quarantine.add(scene.worker)
    assert scene.take().crashes == 2


def test_listed_request_is_served_here_whatever_its_slot_was(scene: Scene) -> None:
    """Once there is a worker; another one is told whose requests these are."""
    scene.quarantine.blame(BAD)
    assert scene.signatures == [(BAD,)]
    assert scene.quarantine.takes(scene.passage(slot=channel.QUARANTINE))
    scene.quarantine.add(scene.worker)
    assert scene.take().slot == channel.ANY


def test_request_that_is_listed_no_more_goes_to_any_worker(scene: Scene) -> None:
    """Its worker may not have known yet."""
    assert scene.quarantine.takes(scene.passage(slot=channel.QUARANTINE))
    (passage,) = scene.passed
    assert passage.handoff is not None and passage.handoff.slot == channel.ANY


def test_signature_is_cleared_by_requests_that_are_answered(scene: Scene) -> None:
    """Those that wait go to other workers, after these were told."""
    scene.quarantine.blame(BAD)
    for _ in range(SURVIVALS + 1):
        scene.quarantine.takes(scene.passage(slot=channel.QUARANTINE))
    scene.quarantine.add(scene.worker)
    for _ in range(SURVIVALS):
        assert scene.passed == []
        scene.take()
        scene.answer()
    assert scene.signatures == [(BAD,), ()]
    assert len(scene.passed) == 1


def test_requests_beyond_those_that_may_wait_are_refused(scene: Scene) -> None:
    """By any worker; for now."""
    scene.quarantine.blame(BAD)
    for _ in range(MAX_WAITING + 1):
        assert scene.quarantine.takes(scene.passage(slot=channel.QUARANTINE))
    (passage,) = scene.passed
    assert passage.handoff is not None and passage.handoff.refusal == BUSY


def test_suspect_that_its_worker_had_not_taken_is_tried_again(scene: Scene) -> None:
    """By the next worker of the quarantine, and by no other; its signature is none the worse."""
    scene.quarantine.takes(scene.passage(crashes=1))
    scene.quarantine.add(scene.worker)
    scene.quarantine.died(scene.worker, scene.worker.untaken())
    assert scene.signatures == [] == scene.passed
    scene.renew()
    assert scene.take().crashes == 1


def test_listed_request_that_its_worker_had_not_taken_is_tried_again(scene: Scene) -> None:
    """It has not been served."""
    scene.quarantine.blame(BAD)
    scene.quarantine.takes(scene.passage(slot=channel.QUARANTINE))
    scene.quarantine.add(scene.worker)
    scene.quarantine.died(scene.worker, scene.worker.untaken())
    assert scene.passed == []
    scene.renew()
    assert scene.take().signature == BAD


def test_worker_that_dies_with_its_request_has_the_signature_listed(scene: Scene) -> None:
    """Whoever has its connection then: it may have been answered, or its client may have gone."""
    scene.quarantine.takes(scene.passage(crashes=1))
    scene.quarantine.add(scene.worker)
    scene.take()
    scene.quarantine.died(scene.worker, scene.worker.untaken())
    assert scene.signatures == [(BAD,)]


def test_worker_that_ends_without_a_request_tells_nothing(scene: Scene) -> None:
    """It was done with its own, which nobody had noticed yet."""
    scene.quarantine.takes(scene.passage(crashes=1))
    scene.quarantine.add(scene.worker)
    scene.take()
    scene.worker.board[Field.CONNECTIONS] = 0
    scene.quarantine.died(scene.worker, scene.worker.untaken())
    assert scene.signatures == []


def test_worker_without_descriptors_is_given_nothing(scene: Scene) -> None:
    """What it was given and cannot take waits for the next one."""
    scene.quarantine.takes(scene.passage(crashes=1))
    scene.quarantine.add(scene.worker)
    scene.worker.board[Field.STARVED_NS] = 1
    assert scene.quarantine.relieve(scene.worker)
    scene.quarantine.room()
    with pytest.raises(BlockingIOError):
        scene.take()
    scene.worker.board[Field.STARVED_NS] = 0
    scene.quarantine.look()
    assert scene.take().crashes == 1
    assert scene.passed == []


def test_worker_of_no_quarantine_is_not_relieved_here(scene: Scene) -> None:
    """The dispatcher does that."""
    assert not scene.quarantine.relieve(scene.worker)


def test_worker_whose_channel_is_full_gets_its_request_later(scene: Scene) -> None:
    """It is alive: it is asked again."""
    filler = memoryview(bytes(65536))
    with contextlib.suppress(BlockingIOError):
        while True:
            scene.worker._ours.send(filler)
    scene.quarantine.takes(scene.passage(crashes=1))
    scene.quarantine.add(scene.worker)
    with contextlib.suppress(BlockingIOError):
        while True:
            scene.end.recv(65536)
    scene.quarantine.look()
    assert scene.take().crashes == 1


def test_request_of_a_listed_signature_does_not_wait_for_ever(scene: Scene) -> None:
    """There may be no worker to be had."""
    scene.quarantine.blame(BAD)
    scene.quarantine.takes(scene.passage(slot=channel.QUARANTINE))
    scene.loop.now = LONGEST_WAIT_S
    scene.quarantine.look()
    (passage,) = scene.passed
    assert passage.handoff is not None and passage.handoff.refusal == BUSY


def test_other_code_has_other_signatures(scene: Scene) -> None:
    """What waits goes to any worker, after all have been told."""
    scene.quarantine.blame(BAD)
    scene.quarantine.takes(scene.passage(slot=channel.QUARANTINE))
    scene.quarantine.renew()
    assert scene.signatures == [(BAD,), ()]
    assert len(scene.passed) == 1


def test_what_waits_goes_to_any_worker_when_the_cluster_stops(scene: Scene) -> None:
    """They know that nothing is served here, and nothing is taken any more."""
    scene.quarantine.blame(BAD)
    scene.quarantine.takes(scene.passage(crashes=1))
    scene.quarantine.stop()
    assert len(scene.passed) == 1
    assert scene.signatures == [(BAD,), ()]
    passage = scene.passage(crashes=1)
    assert not scene.quarantine.takes(passage)
    scene.passed.append(passage)
