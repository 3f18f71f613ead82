"""What one master leaves to the next, with a store that is none of systemd's."""

import os
import socket
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from sdcluster.master.connections.channels import Passage
from sdcluster.master.service import estate as module
from sdcluster.master.service.estate import NAME, Estate
from sdcluster.wire.channel import Handoff
from unit.descriptors import none_leaked
from unit.master.connections.test_counts import connected


class FakeStore:
    """Keeps duplicates, the last one first, as systemd does."""

    def __init__(self, size: int = 100) -> None:
        self.store_size = size
        self.fds: list[int] = []
        self.is_broken = False
        self.heard = 0

    def store(self, name: str, fds: Sequence[int]) -> bool:
        """Store duplicates."""
        assert name == NAME
        if not self.is_broken:
            self.fds[:0] = [os.dup(fd) for fd in fds]
        return not self.is_broken

    def forget(self, name: str) -> None:
        """Close them."""
        assert name == NAME
        while self.fds:
            os.close(self.fds.pop())

    def wait_until_heard(self) -> None:
        """Take note."""
        self.heard += 1

    def pass_on(self) -> list[tuple[int, str]]:
        """Return what the next master gets: a copy of each, between two sockets."""
        stored = [(os.dup(fd), NAME) for fd in self.fds]
        return [(1000, "web"), *stored, (1001, NAME + "s")]


def peer(fd: int) -> Any:
    """Return the address of whom a connection leads to."""
    with socket.socket(fileno=os.dup(fd)) as connection:
        return connection.getpeername()


@pytest.fixture
def store() -> Iterator[FakeStore]:
    """Make a store, and see to it that nothing stays open."""
    with none_leaked():
        made = FakeStore()
        yield made
        made.forget(NAME)


def test_connections_come_to_the_next_master_as_they_are(store: FakeStore) -> None:
    """Each with what is known of it, whatever the order; and then they are in the store no more."""
    handoffs = [Handoff(unanswered=b"GET /", consumed=1005, written=7), None, Handoff(consumed=9)]
    with connected() as one, connected() as two, connected() as three:
        pairs = (one, two, three)
        old = Estate(store, [])
        for (server, _), handoff in zip(pairs, handoffs, strict=True):
            old.add(Passage(server.detach(), handoff))
        assert old.settle() == 3
        assert store.heard == 1
        new = Estate(store, store.pass_on())
        assert new.listening == [(1000, "web"), (1001, NAME + "s")]
        claimed = new.claim()
        assert store.fds == []
        assert new.claim() == []
        clients = [client.getsockname() for _, client in pairs]
        for passage in claimed:
            os.write(passage.fd, b"hello")
            index = clients.index(peer(passage.fd))
            assert pairs[index][1].recv(10) == b"hello"
            assert passage.handoff == handoffs[index]
            os.close(passage.fd)
        assert [client.recv(1) for _, client in pairs] == [b"", b"", b""]


def test_a_start_that_fails_leaves_the_connections_to_the_one_after_it(store: FakeStore) -> None:
    """It has not claimed them: they stay in the store."""
    with connected() as (server, client):
        old = Estate(store, [])
        old.add(Passage(server.detach()))
        old.settle()
        assert Estate(store, store.pass_on()).settle() == 0
        (passage,) = Estate(store, store.pass_on()).claim()
        os.close(passage.fd)
        assert client.recv(1) == b""


def test_another_try_of_the_same_master_goes_on_with_what_the_one_before_had(
    store: FakeStore,
) -> None:
    """Nothing is stored in between, and there is room for as many again."""
    store.store_size = 2
    with connected() as (server, client):
        estate = Estate(store, [])
        fd = server.detach()
        for _ in range(3):
            estate.add(Passage(fd))
            (passage,) = estate.claim()
            assert passage.fd == fd
        assert store.fds == []
        os.close(fd)
        assert client.recv(1) == b""


@pytest.mark.parametrize("size", [0, 1, 2])
def test_what_the_store_has_no_room_for_is_closed(store: FakeStore, size: int) -> None:
    """One place is for what is known of the connections."""
    store.store_size = size
    with connected() as (server, client), connected() as (other, _):
        estate = Estate(store, [])
        assert estate.is_open == (size > 1)
        estate.add(Passage(other.detach()))
        estate.add(Passage(server.detach()))
        assert client.recv(1) == b""
        assert estate.settle() == (size > 1)


def test_what_is_known_has_a_limit(store: FakeStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory that systemd keeps is not without end."""
    monkeypatch.setattr(module, "MAX_BYTES", 10)
    with connected() as (server, client):
        estate = Estate(store, [])
        estate.add(Passage(server.detach(), Handoff(unanswered=b"GET /")))
        assert client.recv(1) == b""
        assert estate.settle() == 0


def test_a_store_that_does_not_answer_closes_them(store: FakeStore) -> None:
    """As a master does that leaves nothing."""
    store.is_broken = True
    with connected() as (server, client):
        estate = Estate(store, [])
        estate.add(Passage(server.detach()))
        assert estate.settle() == 0
        assert client.recv(1) == b""


@pytest.mark.parametrize("data", [b"", b"sdcluster 0.0.0\n", b"half", None])
def test_what_another_version_has_left_is_closed(store: FakeStore, data: bytes | None) -> None:
    """Nobody knows what was read of it."""
    with connected() as (server, client):
        store.fds.append(os.dup(server.fileno()))
        if data is not None:
            memory = os.memfd_create("known")
            os.write(memory, data)
            store.fds.append(memory)
        server.close()
        assert Estate(store, store.pass_on()).claim() == []
        assert client.recv(1) == b""


@pytest.mark.parametrize("rest", [b"\xff" * 12, bytes(8) + b"\x05\0\0\0hello"])
def test_what_makes_no_sense_is_passed_over(store: FakeStore, rest: bytes) -> None:
    """It is read as far as it does."""
    memory = os.memfd_create("known")
    os.write(memory, module._FORMAT + rest)
    store.fds.append(memory)
    assert Estate(store, store.pass_on()).claim() == []
