"""Messages that have come before the program has a handler for them."""

import socket
from collections import deque
from typing import Any

MAX_MESSAGES = 1024
"""How many are kept; the oldest go first."""
MAX_CONNECTIONS = 64
"""How many of them may have a connection, which is a descriptor of this process's."""


class EarlyMessages:
    """A queue of messages, some with a connection. What is too much is dropped, and closed."""

    def __init__(self) -> None:
        self._messages: deque[tuple[tuple[Any, ...], socket.socket | None]] = deque()
        self._connections = 0

    def __len__(self) -> int:
        return len(self._messages)

    def append(self, message: tuple[Any, ...], connection: socket.socket | None) -> None:
        """Keep what a handler is given of a message."""
        self._messages.append((message, connection))
        self._connections += connection is not None
        while len(self) > MAX_MESSAGES or self._connections > MAX_CONNECTIONS:
            _, dropped = self.popleft()
            if dropped is not None:
                dropped.close()

    def popleft(self) -> tuple[tuple[Any, ...], socket.socket | None]:
        """Return the oldest, and keep it no more."""
        message, connection = self._messages.popleft()
        self._connections -= connection is not None
        return message, connection
