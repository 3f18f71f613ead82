"""A listener that is shared, with clients on the loopback."""

import errno
import os
import select
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from unit.descriptors import count

from sdcluster.worker.sockets.file_listener import HeldListener


class Held:
    """A listener, with what it tells."""

    def __init__(self, *, max_connections: int = 0) -> None:
        self.open = 0
        self.closed = 0
        with socket.create_server(("127.0.0.1", 0)) as made:
            self.address = made.getsockname()
            self.other = made.dup()
            fd = made.detach()
        self.listener = HeldListener(
            fd,
            name=self.address,
            ends_with="cluster",
            max_connections=max_connections,
            on_closed=self._closed,
            on_count=self._counted,
        )

    def _closed(self, _may_wait: bool) -> None:
        self.closed += 1

    def _counted(self, change: int) -> None:
        self.open += change


@pytest.fixture
def held() -> Iterator[Held]:
    """Make a listener, and close it afterwards."""
    made = Held()
    yield made
    made.listener.close()
    made.other.close()


def is_ready(listener: socket.socket) -> bool:
    """Tell whether a loop would be woken."""
    with select.epoll() as epoll:
        epoll.register(listener, select.EPOLLIN)
        return bool(epoll.poll(0.05))


def test_connection_is_counted_until_it_is_closed(held: Held) -> None:
    """Once, however it is closed."""
    with socket.create_connection(held.address):
        assert is_ready(held.listener)
        connection, _ = held.listener.accept()
        assert held.open == 1
        connection.close()
        connection.close()
    assert held.open == 0


def test_name_and_options_are_those_of_the_listener(held: Held) -> None:
    """Not those of the descriptor that is waited for."""
    assert held.listener.getsockname() == held.address
    assert held.listener.family == socket.AF_INET
    assert held.listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN) == 1


def test_accept_waits_as_long_as_it_is_told(held: Held) -> None:
    """The file, whose flags others share, does not block for any of it."""
    held.listener.setblocking(False)
    with pytest.raises(BlockingIOError):
        held.listener.accept()
    held.listener.settimeout(0.01)
    with pytest.raises(TimeoutError):
        held.listener.accept()
    held.listener.settimeout(5)
    assert not os.get_blocking(held.other.fileno())
    with socket.create_connection(held.address):
        held.listener.accept()[0].close()


def test_silent_listener_leaves_connections_to_others(held: Held) -> None:
    """Nobody who waits for it is woken, whatever comes."""
    held.listener.setblocking(False)
    with select.epoll() as epoll:
        epoll.register(held.listener, select.EPOLLIN)
        held.listener.be_silent()
        with socket.create_connection(held.address):
            assert not epoll.poll(0.05)
            with pytest.raises(BlockingIOError):
                held.listener.accept()
            held.other.accept()[0].close()
    held.listener.be_silent()


def test_close_is_told_once(held: Held) -> None:
    """And the file is let go of."""
    held.listener.close()
    held.listener.close()
    held.listener.be_silent()
    assert held.closed == 1


def test_listener_that_nobody_has_is_closed() -> None:
    """With a warning, as of any socket."""
    made = Held()
    with pytest.warns(ResourceWarning):
        del made.listener
    assert made.closed == 1
    made.other.close()


def test_listener_has_no_duplicate(held: Held) -> None:
    """It would not be known of."""
    with pytest.raises(OSError, match="cannot be duplicated"):
        held.listener.dup()


def test_what_was_taken_is_accepted_though_the_listener_has_ended(held: Held) -> None:
    """Who waits is woken as long as there is some of it, and clients are refused meanwhile."""
    with socket.create_connection(held.address) as first, socket.create_connection(held.address):
        held.other.close()
        assert held.listener.take_some(1)
        assert held.listener.take_some(1)
        assert not held.listener.take_some(1)
        held.listener.end()
        assert held.open == 2
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(held.address)
        assert held.listener.getsockname() == held.address
        for number in range(2):
            assert is_ready(held.listener)
            connection, address = held.listener.accept()
            assert (address == first.getsockname()) == (number == 0)
            connection.close()
        assert not is_ready(held.listener)
        held.listener.settimeout(0.01)
        with pytest.raises(TimeoutError):
            held.listener.accept()
    assert held.open == 0


def test_what_was_taken_and_not_accepted_is_closed_with_the_listener(held: Held) -> None:
    """And nothing is taken after that."""
    with socket.create_connection(held.address) as client:
        before = count()
        assert held.listener.take_some(5) is False
        assert held.open == 1
        held.listener.close()
        assert held.open == 0 and count() == before - 3  # It was a socket, an epoll and a file.
        assert client.recv(1) == b""
    assert held.listener.take_some(1) is False


def test_connections_are_left_when_descriptors_are_used_up(
    held: Held, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They can be had when it is better."""

    def fail() -> tuple[socket.socket, object]:
        raise OSError(errno.EMFILE, "Too many open files")

    with socket.create_connection(held.address):
        monkeypatch.setattr(held.listener, "_take", fail)
        assert held.listener.take_some(1)
        assert held.open == 0
        monkeypatch.undo()
        assert held.listener.take_some(1)
        held.listener.accept()[0].close()


@pytest.fixture
def limited() -> Iterator[Held]:
    """Make a listener for two connections at a time, and close it afterwards."""
    made = Held(max_connections=2)
    yield made
    made.listener.close()
    made.other.close()


def test_full_listener_leaves_connections_to_others(limited: Held) -> None:
    """It is not ready, and has nothing to accept, until one of its own is closed."""
    limited.listener.settimeout(0)
    clients = [socket.create_connection(limited.address) for _ in range(3)]
    first, _ = limited.listener.accept()
    second, _ = limited.listener.accept()
    assert not is_ready(limited.listener)
    with pytest.raises(BlockingIOError):
        limited.listener.accept()
    first.close()
    assert is_ready(limited.listener)
    third, _ = limited.listener.accept()
    assert limited.open == 2
    for one in (second, third, *clients):
        one.close()


def test_failed_accept_takes_no_room(limited: Held) -> None:
    """However often there is nothing to accept."""
    limited.listener.settimeout(0)
    for _ in range(5):
        with pytest.raises(BlockingIOError):
            limited.listener.accept()
    with socket.create_connection(limited.address):
        accepted, _ = limited.listener.accept()
        accepted.close()


def test_thread_that_waits_for_room_is_woken(limited: Held) -> None:
    """By the end of a connection, in whatever thread that is."""
    clients = [socket.create_connection(limited.address) for _ in range(3)]
    taken = [limited.listener.accept()[0] for _ in range(2)]
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(limited.listener.accept)
        assert not waiting.done()
        taken[0].close()
        accepted, _ = waiting.result(10)
    for one in (accepted, *taken, *clients):
        one.close()


def test_many_threads_never_take_too_many(limited: Held) -> None:
    """Two at a time, whoever accepts."""
    limited.listener.settimeout(10)
    most = []

    def serve() -> None:
        connection, _ = limited.listener.accept()
        most.append(limited.open)
        connection.close()

    with ThreadPoolExecutor(8) as pool:
        done = [pool.submit(serve) for _ in range(64)]
        for _ in range(64):
            socket.create_connection(limited.address).close()
        for one in done:
            one.result(10)
    assert max(most) <= 2
