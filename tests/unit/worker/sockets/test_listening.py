"""Listeners of a worker that is to leave."""

import asyncio
import os
import socket
from collections.abc import Iterator
from concurrent.futures import Future
from typing import Any, cast

import pytest

from sdcluster.messaging.requests import Answer, Requests, encode
from sdcluster.wire.messages import Frame, Kind
from sdcluster.worker.sockets.listening import Listening

REQUEST = {"address": "127.0.0.1:80"}


class Answered:
    """Requests whose answer has come before anybody waits for it."""

    def __init__(self, fd: int) -> None:
        told = {"key": 1, "name": ["127.0.0.1", 80], "datagrams": False}
        told |= {"ends_with": "cluster", "max_connections": 0}
        self.future: Future[Answer] = Future()
        self.future.set_result((Frame(Kind.REPLY, encode(told), number=1), [os.dup(fd)]))

    def send(self, kind: Kind, body: bytes) -> "tuple[int, Future[Answer]]":  # noqa: ARG002
        """Return the answer that is there."""
        return 1, self.future

    def forget(self, number: int) -> None:
        """Do nothing."""


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    """Yield what the master has bound."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener


@pytest.mark.parametrize("way", ["open", "aopen"])
def test_listener_that_comes_with_the_order_to_leave_is_not_kept(
    listener: socket.socket, way: str
) -> None:
    """It would be accepted from for as long as the worker is there, and nobody would be refused."""
    sent: list[Any] = []
    answered = Answered(listener.fileno())
    listening = Listening(cast(Requests, answered), sent.append, lambda: None)
    listening.stop()
    if way == "open":
        with pytest.raises(KeyboardInterrupt):
            listening.open(REQUEST)
    else:
        with pytest.raises(asyncio.CancelledError):
            asyncio.run(listening.aopen(REQUEST))
    assert [frame.kind for frame in sent] == [Kind.UNLISTEN]
    where = listener.getsockname()
    listener.close()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(where)
