"""Sockets that travel with messages."""

import os
import socket

import pytest

from sdcluster.errors import ClusterError, ProtocolError
from sdcluster.messaging import attachment
from unit.descriptors import none_leaked


@pytest.mark.parametrize("blocking", [True, False])
def test_socket_arrives_as_it_was_sent(blocking: bool) -> None:
    """Its file is the sender's, and so is whether it waits."""
    with none_leaked(), socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sock:
        sock.setblocking(blocking)
        descriptors = [os.dup(attachment.descriptor(sock))]
        received = attachment.received(descriptors)
        assert received is not None and descriptors == []
        assert (received.family, received.type) == (socket.AF_INET6, socket.SOCK_DGRAM)
        assert received.getblocking() == blocking == sock.getblocking()
        received.close()


def test_message_without_descriptors_has_no_socket() -> None:
    """As most have none."""
    assert attachment.received([]) is None


def test_what_is_no_socket_is_not_sent() -> None:
    """A number, a file, and a socket that is closed."""
    closed = socket.socket()
    closed.close()
    with open(os.devnull) as file:
        for wrong, text in ((7, "a int is no connection"), (file, "only sockets"), (closed, "Bad")):
            with pytest.raises(ClusterError, match=text):
                attachment.descriptor(wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("count", [1, 2])
def test_what_is_no_socket_breaks_the_protocol(count: int) -> None:
    """So do two of them; all are closed."""
    with none_leaked():
        descriptors = [os.open(os.devnull, os.O_RDONLY) for _ in range(count)]
        with pytest.raises(ProtocolError, match="not one connection"):
            attachment.received(descriptors)
        assert descriptors == []
