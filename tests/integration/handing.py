"""The master's side of a listener whose connections are handed over, and clients of it."""

import os
import socket
from typing import Any

from sdcluster.master.connections.channels import WorkerChannel
from sdcluster.wire.scoreboard import Field
from sdcluster.worker.sockets.dispatch_listener import HandedListener


class Master:
    """A listener, the channel to a worker, and the worker's end of it."""

    def __init__(self, family: int = socket.AF_INET, address: Any = ("127.0.0.1", 0)) -> None:
        self.real = socket.socket(family, socket.SOCK_STREAM)
        self.real.bind(address)
        self.real.listen()
        self.channel = WorkerChannel(frame_limit=1)
        self.closed = 0
        self.open = 0
        """The connections of the worker, as it was told of them."""
        self._clients: list[socket.socket] = []
        fd, board_fd = (os.dup(one) for one in self.channel.descriptors())
        self.listener = HandedListener(
            fd,
            board_fd,
            family=family,
            name=self.real.getsockname(),
            on_closed=self._on_closed,
            on_count=self._on_count,
        )

    def _on_closed(self, _may_wait: bool) -> None:
        self.closed += 1

    def _on_count(self, change: int) -> None:
        assert change in (1, -1)
        self.open += change

    def connect(self) -> socket.socket:
        """Return a client whose connection was given to the worker."""
        client = socket.socket(self.real.family, socket.SOCK_STREAM)
        self._clients.append(client)
        client.settimeout(10)
        client.connect(self.real.getsockname())
        self.give()
        return client

    def give(self) -> None:
        """Accept a connection and give it to the worker."""
        accepted, _ = self.real.accept()
        with accepted:
            self.channel.give([accepted.fileno()])

    def counts(self) -> tuple[int, int, int]:
        """Return how many connections are open, by the scoreboard and by word, and to be taken."""
        outstanding = self.channel.outstanding()
        return self.channel.board[Field.CONNECTIONS], self.open, outstanding

    def die(self) -> None:
        """Close the master's side."""
        self.channel.close()

    def close(self) -> None:
        """Close everything."""
        for sock in (*self._clients, self.real, self.listener):
            sock.close()
        self.channel.close()
