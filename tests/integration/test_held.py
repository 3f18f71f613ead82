"""A listener that is shared, with clients on the loopback."""

import os
import select
import socket
from collections.abc import Iterator

import pytest

from sdcluster.worker.held import HeldListener


class Held:
    """A listener, with what it tells."""

    def __init__(self) -> None:
        self.open = 0
        self.closed = 0
        with socket.create_server(("127.0.0.1", 0)) as made:
            self.address = made.getsockname()
            self.other = made.dup()
            fd = made.detach()
        self.listener = HeldListener(fd, on_closed=self._closed, on_count=self._counted)

    def _closed(self) -> None:
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
