"""A worker's channel, and what a dead worker leaves in it."""

import array
import contextlib
import os
import resource
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from sdcluster.errors import ProtocolError
from sdcluster.master.connections.channels import Passage, Untaken, WorkerChannel
from sdcluster.wire.channel import (
    CONNECTION,
    FINISH,
    MAX_CONNECTIONS_PER_FRAME,
    Handoff,
    encode_handoff,
)
from sdcluster.wire.notify import Notification


@contextmanager
def room_for(descriptors: int) -> Iterator[None]:
    """Leave this process so many descriptors while the body runs."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    free = [os.dup(0) for _ in range(descriptors)]
    lowest = os.dup(0)
    for fd in (*free, lowest):
        os.close(fd)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def give(channel: WorkerChannel, count: int) -> list[socket.socket]:
    """Give a worker connections in one frame, and return their clients."""
    pairs = [socket.socketpair() for _ in range(count)]
    channel.give([accepted.fileno() for accepted, _ in pairs])
    for accepted, client in pairs:
        accepted.close()
        client.setblocking(False)
    return [client for _, client in pairs]


def take_all(untaken: Untaken) -> list[int]:
    """Return how many connections come at a time, and close them and what they came from."""
    counts = []
    while count := untaken.next_count():
        connections = untaken.take()
        assert len(connections) == count
        counts.append(count)
        for passage in connections:
            os.close(passage.fd)
    assert untaken.take() == []
    untaken.close()
    return counts


@contextmanager
def worker_of(channel: WorkerChannel) -> Iterator[socket.socket]:
    """Return the worker's end of a channel."""
    end = socket.socket(fileno=os.dup(channel.descriptors()[0]))
    with end:
        yield end


def take_as_worker(worker: socket.socket) -> None:
    """Take the connection that is next, and close it."""
    _, fds, _, _ = socket.recv_fds(worker, 10, 1)
    for fd in fds:
        os.close(fd)


def frames_left(worker: socket.socket) -> list[bytes]:
    """Return what is in a channel still."""
    frames = []
    with contextlib.suppress(BlockingIOError):
        while frame := worker.recv(10):
            frames.append(frame)
    return frames


@pytest.fixture
def channel() -> Iterator[WorkerChannel]:
    """Make a channel."""
    made = WorkerChannel()
    yield made
    made.close()


def test_what_a_dead_worker_has_not_taken_is_taken_back(channel: WorkerChannel) -> None:
    """In order, past what is no connection."""
    channel.admit()
    clients = give(channel, 3) + give(channel, MAX_CONNECTIONS_PER_FRAME)
    channel.admit()
    assert take_all(channel.untaken()) == [3, MAX_CONNECTIONS_PER_FRAME]
    assert [client.recv(1) for client in clients] == [b""] * len(clients)
    for client in clients:
        client.close()


@pytest.mark.parametrize("retired", [False, True])
def test_a_worker_that_took_everything_leaves_nothing(
    channel: WorkerChannel, retired: bool
) -> None:
    """Whether or not it was told that no more will come."""
    if retired:
        channel.retire()
    assert take_all(channel.untaken()) == []


def test_what_a_worker_that_lives_does_not_take_is_taken_back(channel: WorkerChannel) -> None:
    """It was given that much less then; orders in between are for the worker to take first."""
    clients = [*give(channel, 2), *give(channel, 1)]
    channel.admit()
    clients += give(channel, 1)
    back = list(channel.take_back())
    assert len(back) == 3
    assert channel.outstanding() == 1
    worker = socket.socket(fileno=os.dup(channel.descriptors()[0]))
    assert worker.recv(10) == b"a"
    back += channel.take_back()
    assert channel.outstanding() == 0
    assert list(channel.take_back()) == []
    for passage, client in zip(back, clients, strict=True):
        os.write(passage.fd, b"hello")
        assert client.recv(10) == b"hello"
        os.close(passage.fd)
        client.close()
    worker.close()


def test_what_there_are_no_descriptors_for_is_not_taken_back(channel: WorkerChannel) -> None:
    """It stays where it is, and is counted as given."""
    clients = give(channel, 2)
    with room_for(1), pytest.raises(OSError, match="Too many open files"):
        list(channel.take_back())
    assert channel.outstanding() == 2
    back = list(channel.take_back())
    assert len(back) == 2
    for passage, client in zip(back, clients, strict=True):
        os.close(passage.fd)
        client.close()


@pytest.mark.parametrize("retired", [False, True])
def test_order_is_never_lost_to_what_is_taken_back(
    channel: WorkerChannel, monkeypatch: pytest.MonkeyPatch, *, retired: bool
) -> None:
    """The worker may be faster, so that its order is taken; to a retired one none can be sent."""
    (client,) = give(channel, 1)
    channel.finish()
    if retired:
        channel.retire()
    with worker_of(channel) as worker:
        peek = Untaken.peek

        def let_the_worker_be_faster(untaken: Untaken) -> bytes:
            found = peek(untaken)
            if found.startswith(CONNECTION):
                take_as_worker(worker)
            return found

        monkeypatch.setattr(Untaken, "peek", let_the_worker_be_faster)
        list(channel.take_back())
        monkeypatch.undo()
        worker.setblocking(False)
        assert FINISH in frames_left(worker)
    client.close()


def test_what_was_not_taken_outlives_the_channel() -> None:
    """Also when the worker had said something that nobody has read."""
    channel = WorkerChannel()
    clients = give(channel, 2)
    with socket.socket(fileno=os.dup(channel.descriptors()[0])) as worker:
        worker.send(b"WATCHDOG=1")
    untaken = channel.untaken()
    channel.close()
    with pytest.raises(BlockingIOError):
        clients[0].recv(1)
    assert take_all(untaken) == [2]
    for client in clients:
        client.close()


@pytest.mark.parametrize("room", [0, 2])
def test_connections_without_room_for_all_stay_in_the_channel(
    channel: WorkerChannel, room: int
) -> None:
    """The kernel would drop those that do not fit."""
    clients = give(channel, 3)
    untaken = channel.untaken()
    with room_for(room), pytest.raises(OSError, match="Too many open files"):
        untaken.take()
    with room_for(3):
        connections = untaken.take()
    assert len(connections) == 3
    for passage in connections:
        os.close(passage.fd)
    for client in clients:
        client.close()
    untaken.close()


def test_what_is_never_taken_ends_with_its_channel(channel: WorkerChannel) -> None:
    """Closing it closes the connections: their clients see the end."""
    (client,) = give(channel, 1)
    channel.untaken().close()
    client.settimeout(10)  # A thread closes what has come from elsewhere.
    assert client.recv(1) == b""
    client.close()


def test_descriptors_that_a_worker_sends_are_closed(channel: WorkerChannel) -> None:
    """Nobody has asked for them."""
    theirs, other = socket.socketpair()
    rights = array.array("i", [theirs.fileno()])
    with socket.socket(fileno=os.dup(channel.descriptors()[0])) as worker:
        worker.sendmsg([b"STATUS=hello"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])
    theirs.close()
    notification = channel.read()
    assert isinstance(notification, Notification) and notification.status == "hello"
    assert other.recv(1) == b""
    other.close()


def test_worker_that_obeys_an_order_to_move_commits_no_offence(channel: WorkerChannel) -> None:
    """The slot may be one that a reload has added, of which it is told when that has succeeded."""
    channel.tell_slots(2)
    channel.move(1, 3)
    connection, client = socket.socketpair()
    with worker_of(channel) as worker, connection, client:
        frame = encode_handoff(Handoff(slot=3, hops=1, serial=1))
        socket.send_fds(worker, [frame], [connection.fileno()])
        passage = channel.read()
        assert isinstance(passage, Passage) and passage.handoff is not None
        assert passage.handoff.slot == 3
        os.close(passage.fd)


def test_worker_that_names_a_slot_of_which_it_was_not_told_commits_an_offence(
    channel: WorkerChannel,
) -> None:
    """An order to move is for that slot and those below it, and for no other."""
    channel.move(1, 3)
    connection, client = socket.socketpair()
    with worker_of(channel) as worker, connection, client:
        frame = encode_handoff(Handoff(slot=4, hops=1, serial=1))
        socket.send_fds(worker, [frame], [connection.fileno()])
        with pytest.raises(ProtocolError, match="slot 4 of the 4 that it knows of"):
            channel.read()
