"""Messages that wait for a handler."""

import socket

from sdcluster.worker.messages.postbox import MAX_CONNECTIONS, MAX_MESSAGES, EarlyMessages
from unit.descriptors import none_leaked


def test_messages_come_out_in_order() -> None:
    """Each with its connection, if it has one."""
    with none_leaked(), socket.socket() as sock:
        early = EarlyMessages()
        early.append(("first",), None)
        early.append(("second",), sock)
        assert len(early) == 2
        assert [early.popleft(), early.popleft()] == [(("first",), None), (("second",), sock)]
        assert not early


def test_oldest_go_first_when_there_are_too_many() -> None:
    """Of messages; and of connections, which are fewer, and are closed."""
    early = EarlyMessages()
    for number in range(MAX_MESSAGES + 5):
        early.append((number,), None)
    assert len(early) == MAX_MESSAGES and early.popleft() == ((5,), None)
    with none_leaked():
        socks = [socket.socket() for _ in range(MAX_CONNECTIONS + 1)]
        for sock in socks:
            early.append(("with",), sock)
        assert early.popleft() == (("with",), socks[1])
        assert socks[0].fileno() == -1
        for sock in socks:
            sock.close()
