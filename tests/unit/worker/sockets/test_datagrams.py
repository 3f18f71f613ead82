"""A socket for datagrams has what any socket has, but for the flags of its file."""

import errno
import os
import socket
from collections.abc import Iterator

import pytest

from sdcluster.worker.sockets.datagrams import DatagramSocket


@pytest.fixture
def shared() -> Iterator[DatagramSocket]:
    """Yield a bound socket."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        name = sock.getsockname()
        with DatagramSocket(os.dup(sock.fileno()), name=name, on_closed=lambda _: None) as shared:
            yield shared


@pytest.fixture
def one(shared: DatagramSocket) -> Iterator[socket.socket]:
    """Yield a socket of a client's, which has sent "ab"."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
        one.bind(("127.0.0.1", 0))
        one.settimeout(10)
        one.sendto(b"ab", shared.getsockname())
        yield one


def test_every_way_to_receive_takes_what_a_socket_takes(
    shared: DatagramSocket, one: socket.socket
) -> None:
    """Sizes and flags, by name where a socket's have names."""
    peek, buffer = socket.MSG_PEEK, bytearray(9)
    shared.settimeout(10)
    assert shared.recv(9, peek) == b"ab"
    assert shared.recv_into(buffer, nbytes=1, flags=peek) == 1
    assert shared.recvfrom(9, peek) == (b"ab", one.getsockname())
    assert shared.recvfrom_into(buffer, nbytes=2, flags=peek) == (2, one.getsockname())
    assert shared.recvmsg(9, 0, peek)[0] == b"ab"
    assert shared.recvmsg_into([buffer])[0] == 2
    assert buffer[:2] == b"ab"


def test_every_way_to_send_takes_what_a_socket_takes(
    shared: DatagramSocket, one: socket.socket
) -> None:
    """With and without flags, to an address and connected."""
    where = one.getsockname()
    shared.sendto(b"1", where)
    shared.sendto(b"2", socket.MSG_DONTWAIT, where)
    shared.sendmsg([b"3"], [], 0, where)
    shared.connect(where)
    shared.send(b"4")
    shared.sendmsg([b"5"])
    assert [one.recv(9) for _ in range(5)] == [b"1", b"2", b"3", b"4", b"5"]


def test_a_call_with_dontwait_does_not_wait(shared: DatagramSocket) -> None:
    """Even where the socket's own time-out would let it."""
    shared.settimeout(10)
    with pytest.raises(BlockingIOError):
        shared.recv(9, socket.MSG_DONTWAIT)
    with pytest.raises(BlockingIOError):
        shared.recvmsg(9, 0, socket.MSG_DONTWAIT)


def test_it_has_no_connections(shared: DatagramSocket) -> None:
    """To accept and to listen are the errors that they are for any such socket."""
    for call in (shared.accept, shared.listen):
        with pytest.raises(OSError, match=os.strerror(errno.EOPNOTSUPP)):
            call()
