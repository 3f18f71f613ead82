"""The control socket: a Varlink server for root and the service's own user.

It limits what a client can cost: the number of clients, the size of a message, what is read in one
turn of the loop, and what waits to be sent. Each user has limits of its own, so that nothing of the
service's keeps root from being answered; and those who wait for an answer are counted apart from
those who may ask.
"""

import os
import socket
from collections.abc import Callable, Iterable
from pathlib import Path

from sdcluster.config.address import Address
from sdcluster.errors import ProtocolError
from sdcluster.master.connections.listeners import Listener, bind
from sdcluster.master.host.loop import Loop, Timer
from sdcluster.system import runtime
from sdcluster.system.descriptors import EXHAUSTED_RETRY_S
from sdcluster.system.event_loop import READ, WRITE
from sdcluster.system.runtime import peer_uid
from sdcluster.wire import varlink

MAX_CLIENTS = 32
"""Clients of one user that wait for nothing; the oldest is dropped for one more."""
MAX_WAITING_CLIENTS = 256
"""Clients of one user that wait for an answer; one more is refused what it asks."""
READ_BYTES = 16 * 1024
MAX_WAITING_BYTES = 256 * 1024
"""Replies a client may leave unread before it is dropped."""
MAX_WAITING_CALLS = 64
"""Calls a client may send before the answer to the first one; nobody has that much to ask."""
PATIENCE_S = 5.0
"""How long a client may take to send a whole call."""

Handler = Callable[["Client", varlink.Call], None]


def listen(folder: Path) -> Listener:
    """Create the socket in `folder`, which is there; clients wait there for a `ControlServer`.

    Raises `ListenError`.
    """
    path = str(folder / runtime.CONTROL)
    before = os.umask(0o177)
    try:
        listener = bind(Address("unix", "", 0, path, ""))
    finally:
        os.umask(before)
    listener.socket.setblocking(False)
    return listener


class ControlServer:
    """Answers the calls of those that connect to the socket."""

    def __init__(
        self, loop: Loop, listener: Listener, connections: Iterable[socket.socket] = ()
    ) -> None:
        """`listener` is the caller's, and may be given to another server after this one.

        `connections` are those that the server before has left.
        """
        self._loop = loop
        self._listener = listener
        self._connections = list(connections)
        self._clients: dict[Client, None] = {}
        self._closed = False

    def answer(self, handler: Handler) -> None:
        """Hand each call to `handler` from now on."""
        connections, self._connections = self._connections, []
        for connection in connections:
            self._add(connection, handler, peer_uid(connection))
        self._listen(handler)

    def _listen(self, handler: Handler) -> None:
        self._loop.add(self._listener.socket.fileno(), lambda: self._accept(handler))

    def _accept(self, handler: Handler) -> None:
        try:
            connection, _ = self._listener.socket.accept()
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):
            return  # The client has gone already.
        except OSError:
            self._pause(handler)
            return
        uid = peer_uid(connection)
        if uid not in (0, os.geteuid()):
            connection.close()
            return
        self._make_room(uid)
        connection.setblocking(False)
        self._add(connection, handler, uid)

    def _add(self, connection: socket.socket, handler: Handler, uid: int) -> None:
        self._clients[Client(self._loop, connection, handler, self._forget, uid=uid)] = None

    def _pause(self, handler: Handler) -> None:
        """Leave clients in the backlog for a while: the listener stays ready, and we would spin."""
        fd = self._listener.socket.fileno()
        self._loop.remove(fd)

        def resume() -> None:
            if not self._closed:
                self._listen(handler)

        self._loop.call_later(EXHAUSTED_RETRY_S, resume)

    def _make_room(self, uid: int) -> None:
        """Drop the oldest client of a user that waits for nothing, if there are too many."""
        idle = [client for client in self._clients if client.uid == uid and not client.is_busy]
        if len(idle) >= MAX_CLIENTS:
            idle[0].close()

    def _forget(self, client: "Client") -> None:
        self._clients.pop(client, None)

    def close(self) -> None:
        """Close the connections of clients; what one has not made room for is not sent."""
        for connection in self.leave():
            connection.close()

    def leave(self) -> list[socket.socket]:
        """Be over, but return the connections of clients that wait for nothing.

        Such a one may just be asking: the next server answers that.
        """
        self._closed = True
        self._loop.remove(self._listener.socket.fileno())
        left, self._connections = self._connections, []
        for client in list(self._clients):
            if client.is_idle:
                left.append(client.leave())
            else:
                client.close()
        return left


class Client:
    """One connection to the control socket. Calls are answered in their order."""

    def __init__(
        self,
        loop: Loop,
        connection: socket.socket,
        handler: Handler,
        on_close: Callable[["Client"], None],
        *,
        uid: int,
    ) -> None:
        """`uid` is whose it is."""
        self.uid = uid
        self._loop = loop
        self._connection = connection
        self._handler = handler
        self._on_close = on_close
        self._splitter = varlink.Splitter()
        self._calls: list[bytes] = []
        self._busy = False
        self._silent = False
        """The call under way is `oneway`: it wants no reply."""
        self._ended = False
        """The client has closed its sending side; it may still read."""
        self._output = b""
        self._closed = False
        self._patience: Timer = loop.call_later(PATIENCE_S, self.close)
        self._events = READ
        loop.add(connection.fileno(), self._ready, READ)

    @property
    def is_busy(self) -> bool:
        """Whether it waits for an answer."""
        return self._busy

    @property
    def is_idle(self) -> bool:
        """Whether nothing is under way: no call was read that is not answered, and sent."""
        is_read = self._calls or not self._splitter.is_empty
        return not (self._busy or is_read or self._output or self._ended or self._closed)

    def send(self, reply: varlink.Reply) -> None:
        """Answer the call under way; it is over with the first reply that does not continue."""
        if self._closed:
            return
        if not self._silent:
            self._output += varlink.encode(reply)
        if not reply.continues:
            self._busy = False
            self._patience = self._loop.call_later(PATIENCE_S, self.close)
        self._flush()
        if not reply.continues:
            self._next_call()

    def _ready(self) -> None:
        if self._output:
            self._flush()
        elif self._ended:
            self.close()  # Nothing but a hang-up is waited for then.
        if not self._closed and not self._ended:
            self._read()

    def _read(self) -> None:
        try:
            data = self._connection.recv(READ_BYTES)
        except BlockingIOError:
            return
        except OSError:
            self.close()
            return
        if not data:
            self._ended = True
            self._settle()
            return
        try:
            self._calls += self._splitter.feed(data)
        except ProtocolError:
            self.close()
            return
        if len(self._calls) > MAX_WAITING_CALLS:
            self.close()
            return
        self._next_call()

    def _next_call(self) -> None:
        if self._closed or self._busy or not self._calls:
            return
        try:
            call = varlink.decode_call(self._calls.pop(0))
        except ProtocolError:
            self.close()
            return
        self._busy, self._silent = True, call.oneway
        self._patience.cancel()
        self._handler(self, call)

    def _flush(self) -> None:
        try:
            sent = self._connection.send(self._output, socket.MSG_NOSIGNAL)
        except BlockingIOError:
            sent = 0
        except OSError:
            self.close()
            return
        self._output = self._output[sent:]
        if len(self._output) > MAX_WAITING_BYTES:
            self.close()
            return
        self._settle()

    def _settle(self) -> None:
        """Watch for what can happen next; close when nothing can."""
        if self._ended and not (self._busy or self._calls or self._output):
            self.close()
            return
        events = (0 if self._ended else READ) | (WRITE if self._output else 0)
        if events != self._events:
            self._events = events
            self._loop.remove(self._connection.fileno())
            self._loop.add(self._connection.fileno(), self._ready, events)

    def close(self) -> None:
        """Close the connection. Harmless a second time."""
        if not self._closed:
            self.leave().close()

    def leave(self) -> socket.socket:
        """Be over, and return the connection, which is open."""
        self._closed = True
        self._patience.cancel()
        self._loop.remove(self._connection.fileno())
        self._on_close(self)
        return self._connection
