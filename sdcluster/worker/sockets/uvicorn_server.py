"""A server for a listener of the cluster's, on any loop; uvloop's cannot serve such a one.

uvloop gives the descriptor of a listener to libuv, which calls listen(2) and accept(2) on it. A
listener whose `accept` is its own has to be watched instead, and each connection given to the loop.
"""

import asyncio
import functools
import logging
import socket
import weakref
from collections.abc import Callable
from typing import Any

from sdcluster.errors import reason_of
from sdcluster.system.descriptors import EXHAUSTED_RETRY_S
from sdcluster.worker.sockets.listener import ClusterListener

ACCEPTS_PER_TURN = 16

logger = logging.getLogger("sdcluster")

ProtocolFactory = Callable[[], asyncio.BaseProtocol]


@functools.cache
def teach(kind: type[ClusterListener]) -> None:
    """Have uvloop, where it is installed, serve listeners of this class with `Server`."""
    try:
        from uvloop import Loop
    except ImportError:
        return
    for name in ("create_server", "create_unix_server"):
        setattr(Loop, name, _taught(getattr(Loop, name), kind))


def _taught(original: Callable[..., Any], kind: type[ClusterListener]) -> Callable[..., Any]:
    """Return a `create_server` that takes listeners of this class as well."""

    @functools.wraps(original)
    async def create_server(
        loop: asyncio.AbstractEventLoop,
        protocol_factory: ProtocolFactory,
        *where: Any,
        sock: socket.socket | None = None,
        **options: Any,
    ) -> Any:
        if not isinstance(sock, kind):
            return await original(loop, protocol_factory, *where, sock=sock, **options)
        if any(one is not None for one in (*where, *map(options.get, ("host", "port", "path")))):
            raise ValueError("an address and a socket cannot be given at the same time")
        server = Server(loop, sock, protocol_factory, **_connect_options(options))
        if options.get("start_serving", True):
            await server.start_serving()
        return server

    return create_server


def _connect_options(options: dict[str, Any]) -> dict[str, Any]:
    """Return those options of `create_server` that concern its connections."""
    names = ("ssl", "ssl_handshake_timeout", "ssl_shutdown_timeout")
    return {name: options[name] for name in names if options.get(name) is not None}


class Server(asyncio.AbstractServer):
    """A listener that is served, with the interface of asyncio.Server."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        listener: ClusterListener,
        protocol_factory: ProtocolFactory,
        **connect_options: Any,
    ) -> None:
        self._loop = loop
        self._listener: ClusterListener | None = listener
        self._protocol_factory = protocol_factory
        self._connect_options = connect_options
        self._serving = False
        self._opening: set[asyncio.Task[None]] = set()
        self._clients: weakref.WeakSet[Any] = weakref.WeakSet()
        self._forever: asyncio.Future[None] | None = None
        self._closed: asyncio.Future[None] = loop.create_future()
        listener.setblocking(False)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} sockets={self.sockets!r}>"

    @property
    def sockets(self) -> tuple[ClusterListener, ...]:
        """The listener, until it is closed."""
        return () if self._listener is None else (self._listener,)

    @property
    def is_arriving(self) -> bool:
        """Whether a connection waits to be accepted, or was and has no protocol yet."""
        return bool(self._opening) or any(one.has_connection() for one in self.sockets)

    def get_loop(self) -> asyncio.AbstractEventLoop:
        """Return the loop that it runs on."""
        return self._loop

    def is_serving(self) -> bool:
        """Whether connections are accepted."""
        return self._serving

    async def start_serving(self) -> None:
        """Accept connections. Raises RuntimeError when the server is closed."""
        if self._listener is None:
            raise RuntimeError(f"server {self!r} is closed")
        if not self._serving:
            self._serving = True
            self._loop.add_reader(self._listener, self._accept, self._listener)

    async def serve_forever(self) -> None:
        """Accept connections until cancelled, or closed, which raises CancelledError."""
        if self._forever is not None:
            raise RuntimeError(f"server {self!r} is already being awaited on serve_forever()")
        await self.start_serving()
        self._forever = self._loop.create_future()
        try:
            await self._forever
        finally:
            self._forever = None
            self.close()

    def close(self) -> None:
        """Close the listener; connections stay open. Harmless when it is closed."""
        listener, self._listener = self._listener, None
        if listener is None:
            return
        self._serving = False
        self._loop.remove_reader(listener)
        listener.close()
        self._closed.set_result(None)
        if self._forever is not None:
            self._forever.cancel()

    async def wait_closed(self) -> None:
        """Wait until the listener is closed: as uvloop's own server, not for its connections."""
        await asyncio.shield(self._closed)

    def close_clients(self) -> None:
        """Close the connections when what was written is sent."""
        for transport in list(self._clients):
            transport.close()

    def abort_clients(self) -> None:
        """Close the connections at once."""
        for transport in list(self._clients):
            transport.abort()

    def _accept(self, listener: ClusterListener) -> None:
        for _ in range(ACCEPTS_PER_TURN):
            if not self._serving:
                return
            try:
                connection, _ = listener.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                logger.warning("cannot accept: %s; connections wait", reason_of(error))
                self._loop.remove_reader(listener)
                self._loop.call_later(EXHAUSTED_RETRY_S, self._resume)
                return
            connection.setblocking(False)
            task = self._loop.create_task(self._open(connection))
            self._opening.add(task)
            task.add_done_callback(self._opening.discard)

    def _resume(self) -> None:
        if self._listener is not None:
            self._loop.add_reader(self._listener, self._accept, self._listener)

    async def _open(self, connection: socket.socket) -> None:
        try:
            transport, _ = await self._loop.connect_accepted_socket(
                self._protocol_factory, connection, **self._connect_options
            )
        except BaseException as error:
            connection.close()
            if not isinstance(error, Exception):
                raise
            # Clients that go away, or fail the TLS handshake, are no news.
            if not isinstance(error, OSError) or self._loop.get_debug():
                text = "Error on transport creation for incoming connection"
                self._loop.call_exception_handler({"message": text, "exception": error})
        else:
            self._clients.add(transport)
