"""What the kernel has counted of connections, by real ones."""

import contextlib
import fcntl
import socket
import struct
import termios
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from waiting import wait_until

from sdcluster.master.connections import counts as module
from sdcluster.master.connections.counts import Counts, counts

FAMILIES = [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")]

Pair = tuple[socket.socket, socket.socket]


@contextmanager
def connected(family: int = socket.AF_INET, host: str = "127.0.0.1") -> Iterator[Pair]:
    """Make a connection; its server and its client."""
    with socket.socket(family, socket.SOCK_STREAM) as listener:
        listener.bind((host, 0))
        listener.listen()
        with socket.create_connection(listener.getsockname()[:2]) as client:
            server, _ = listener.accept()
            with server:
                yield server, client


def unread(connection: socket.socket) -> int:
    """Return how much has come that nobody has read."""
    answer = fcntl.ioctl(connection, termios.FIONREAD, b"\0" * 4)
    return int(struct.unpack("i", answer)[0])


def state(connection: socket.socket) -> int:
    """Return the state of a connection, as in linux/tcp_states.h."""
    return connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0]


@pytest.mark.parametrize(("family", "host"), FAMILIES)
def test_what_was_read_and_written_is_counted(family: int, host: str) -> None:
    """What has come and was not read does not count; what the peer has not read does."""
    with connected(family, host) as (server, client):
        assert counts(server) == Counts(0, 0, is_open=True)
        client.sendall(b"x" * 1000)
        wait_until(lambda: unread(server) == 1000, "it has come")
        assert counts(server) == Counts(0, 0, is_open=True)
        server.recv(300)
        server.sendall(b"y" * 50)
        assert counts(server) == Counts(300, 50, is_open=True)
        wait_until(lambda: unread(client) == 50, "it is there")
        assert counts(server) == Counts(300, 50, is_open=True)
        client.recv(50)
        server.recv(700)
        assert counts(server) == Counts(1000, 50, is_open=True)


@pytest.mark.parametrize(("family", "host"), FAMILIES)
def test_the_end_of_what_the_client_sends_is_no_byte(family: int, host: str) -> None:
    """Whether it was read or not, and with something unread before it."""
    with connected(family, host) as (server, client):
        client.sendall(b"x" * 10)
        client.shutdown(socket.SHUT_WR)
        wait_until(lambda: state(server) == 8, "the end has come")
        assert counts(server) == Counts(0, 0, is_open=True)
        server.recv(4)
        assert counts(server) == Counts(4, 0, is_open=True)
        server.recv(100)
        assert counts(server) == Counts(10, 0, is_open=True)
        assert server.recv(100) == b""
        assert counts(server) == Counts(10, 0, is_open=True)
        server.sendall(b"y" * 7)
        assert counts(server) == Counts(10, 7, is_open=True)


def test_what_the_client_has_not_acknowledged_is_counted() -> None:
    """A response far larger than the client takes, as far as the kernel has taken it."""
    with connected() as (server, client):
        server.setblocking(False)
        written = 0
        with contextlib.suppress(BlockingIOError):
            for _ in range(10_000):
                written += server.send(b"y" * 100_000)
        assert written > 200_000
        assert counts(server) == Counts(0, written, is_open=True)
        taken = 0
        while taken < written // 2:
            taken += len(client.recv(100_000))
        wait_until(lambda: counts(server) == Counts(0, written, is_open=True), "it is quiet")


def test_connection_that_has_ended_is_not_open() -> None:
    """By a reset of the client's, or by the server's own end."""
    with connected() as (server, client):
        linger = struct.pack("ii", 1, 0)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        client.close()
        wait_until(lambda: state(server) == 7, "it is reset")
        found = counts(server)
        assert found is not None and not found.is_open
    with connected() as (server, _):
        server.shutdown(socket.SHUT_WR)
        found = counts(server)
        assert found is not None and not found.is_open


def test_unix_socket_has_no_counts() -> None:
    """The kernel does not count."""
    one, other = socket.socketpair()
    with one, other:
        assert counts(one) is None


def test_kernel_that_tells_too_little_has_no_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """An old one, whose tcp_info ends before the totals."""
    monkeypatch.setattr(module, "_INFO_BYTES", 104)
    with connected() as (server, _):
        assert counts(server) is None


def test_connection_that_never_stands_still_has_no_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is looked at again and again, but not for ever."""
    seen = iter(range(1000))
    monkeypatch.setattr(module, "_info", lambda _connection: (1, next(seen), 0))
    with connected() as (server, _):
        assert counts(server) is None
    assert next(seen) < 100
