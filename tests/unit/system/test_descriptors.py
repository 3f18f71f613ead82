"""Descriptors in numbers."""

import os
import socket
from pathlib import Path

import pytest

from sdcluster.system.descriptors import Borrowed, is_connection, is_socket


def test_borrowed_socket_stays_open() -> None:
    """Whatever happens to the object: the descriptor is its owner's."""
    one, other = socket.socketpair()
    with one, other:
        with Borrowed(one.fileno()) as sock:
            assert sock.getsockname() == one.getsockname()
        with pytest.raises(ZeroDivisionError), Borrowed(one.fileno()):
            raise ZeroDivisionError
        other.send(b"x")
        assert one.recv(1) == b"x"
        assert sock.fileno() == -1


def test_what_is_no_socket_cannot_be_borrowed(tmp_path: Path) -> None:
    """Whether it is open or not; and it stays as it is."""
    fd = os.open(tmp_path, os.O_RDONLY)
    with pytest.raises(OSError, match="Socket operation on non-socket"), Borrowed(fd):
        pass
    assert not is_socket(fd) and not is_connection(fd)
    os.close(fd)
    with pytest.raises(OSError, match="Bad file descriptor"), Borrowed(fd):
        pass


def test_connection_is_a_stream_socket_that_does_not_listen() -> None:
    """Others are sockets all the same."""
    one, other = socket.socketpair()
    with one, other, socket.create_server(("127.0.0.1", 0)) as listener:
        assert is_connection(one.fileno())
        assert not is_connection(listener.fileno()) and is_socket(listener.fileno())
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams:
        assert not is_connection(datagrams.fileno()) and is_socket(datagrams.fileno())
