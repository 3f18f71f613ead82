"""The listeners that a worker has of the cluster's, and the connections that came from them."""

import asyncio
import contextlib
import json
import socket
import sys
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import CancelledError, Future
from typing import Any

from sdcluster.errors import ClusterError
from sdcluster.messaging import attachment
from sdcluster.messaging.requests import Answer, Requests, encode
from sdcluster.wire.messages import Frame, Kind
from sdcluster.worker.moving.connection import Connection, Tally
from sdcluster.worker.sockets.datagrams import DatagramSocket
from sdcluster.worker.sockets.dispatch_listener import HandedListener
from sdcluster.worker.sockets.file_listener import HeldListener
from sdcluster.worker.sockets.listener import ClusterListener

TIMEOUT_S = 30.0
"""How long the master may take to open a listener."""

CLOSE_TIMEOUT_S = 1.0
"""How long it may take to close one."""
SHARE = 16
"""Connections that a worker takes at a time of a backlog that others take from as well."""
MAX_SHARES = 256
_IDENTITY = ("name", "address", "ipv6_only", "datagrams", "exclusive", "reuse_port")
"""What tells listeners apart that are asked for on port 0."""


class Listening:
    """All listeners of this worker. Any thread may open and close them."""

    def __init__(
        self,
        requests: Requests,
        send: Callable[[Frame], object],
        waiting: Callable[[], contextlib.AbstractContextManager[None] | None],
    ) -> None:
        """`send` sends a frame to the master, without waiting: listeners are collected anywhere.

        `waiting` returns what an answer of the master's is waited for in; None where it would not
        come.
        """
        self._requests = requests
        self._send = send
        self._waiting = waiting
        self._lock = threading.Lock()
        self._listeners: weakref.WeakSet[ClusterListener] = weakref.WeakSet()
        self._ports: dict[str, int] = {}
        self._ends = {"worker"}
        """Who ends: a listener may end with its worker, or with the cluster."""
        self._turns = 0
        """How often `stop` was called."""
        self.is_at_end = False
        """The program has ended, and what it has is closed."""
        self._asking: set[Future[Answer]] = set()
        self._open: deque[None] = deque()
        """An entry for each open connection: without a lock, as one may end in the collector."""

    def open(self, request: Mapping[str, Any]) -> ClusterListener:
        """Return a socket that listens where `request` says. Raises OSError.

        A worker that is to leave is interrupted here as anywhere: the master may not answer it.
        """
        with self._asked(request) as future:
            try:
                return self._opened(*future.result(TIMEOUT_S))
            except CancelledError:
                if threading.current_thread() is threading.main_thread():
                    raise KeyboardInterrupt from None
                raise ClusterError("this worker is to leave, and listens no more") from None

    async def aopen(self, request: Mapping[str, Any]) -> ClusterListener:
        """As `open`, in a coroutine, which can be cancelled."""
        with self._asked(request) as future:
            async with asyncio.timeout(TIMEOUT_S):
                answer = await asyncio.wrap_future(future)
            try:
                return self._opened(*answer)
            except CancelledError:
                raise asyncio.CancelledError from None

    @contextlib.contextmanager
    def _asked(self, request: Mapping[str, Any]) -> "Iterator[Future[Answer]]":
        """Ask the master; what comes when the body has ended is let go."""
        body = encode({**request, "turn": self._turn(request)})
        number, future = self._requests.send(Kind.LISTEN, body)
        with self._lock:
            self._asking.add(future)
        if self._turns:
            future.cancel()
        try:
            yield future
        finally:
            self._requests.forget(number)
            with self._lock:
                self._asking.discard(future)

    def _opened(self, frame: Frame, descriptors: list[int]) -> ClusterListener:
        told = json.loads(frame.body)
        if frame.kind is Kind.ERROR:
            raise OSError(told["errno"], told["text"])
        listener = self._listener(told, descriptors)
        with self._lock:
            self._listeners.add(listener)
            is_late = bool(self._turns)
        if is_late and isinstance(listener, HeldListener):
            listener.close()  # The answer came just before the order to leave, which has missed it.
            raise CancelledError
        return listener

    def received(self, descriptors: list[int]) -> socket.socket | None:
        """Return the socket that has come with a message, if one has; it counts as an open one.

        Raises `ProtocolError`, see `attachment.received`.
        """
        sock = attachment.received(descriptors)
        if sock is None or sock.type != socket.SOCK_STREAM or _listens(sock):
            return sock
        self._counted(1)
        connection = Connection(sock.fileno(), Tally(self._counted))
        connection.settimeout(sock.gettimeout())
        sock.detach()
        return connection

    def _turn(self, request: Mapping[str, Any]) -> int:
        """Return which of the listeners on port 0 is asked for: it is the same in each worker."""
        if not str(request["address"]).endswith(":0"):
            return 0
        where = json.dumps([request[name] for name in _IDENTITY])
        with self._lock:
            turn = self._ports.get(where, 0)
            self._ports[where] = turn + 1
        return turn

    def _listener(self, told: Mapping[str, Any], descriptors: list[int]) -> ClusterListener:
        key, name = told["key"], told["name"]
        name = tuple(name) if isinstance(name, list) else name

        def on_closed(is_meant: bool) -> None:
            self._closed(key, is_meant=is_meant)

        if told["datagrams"]:
            return DatagramSocket(descriptors[0], name=name, on_closed=on_closed)
        if len(descriptors) == 1:
            return HeldListener(
                descriptors[0],
                name=name,
                ends_with=told["ends_with"],
                max_connections=told["max_connections"],
                on_closed=on_closed,
                on_count=self._counted,
            )
        return HandedListener(
            *descriptors,
            family=told["family"],
            name=name,
            on_closed=on_closed,
            on_count=self._counted,
        )

    def _closed(self, key: int, *, is_meant: bool) -> None:
        """Tell the master; if it is meant, its address is free when this returns."""
        # What an exception passes by is closed, and the program may well end by that exception.
        is_meant = is_meant and not self._turns and not self.is_at_end and not sys.exc_info()[0]
        body = encode({"key": key, "is_meant": is_meant})
        waiting = self._waiting() if is_meant else None
        if waiting is None:
            self._send(Frame(Kind.UNLISTEN, body))
            return
        with waiting, contextlib.suppress(ClusterError, TimeoutError):  # It is gone, or busy.
            number, future = self._requests.send(Kind.UNLISTEN, body)
            try:
                future.result(CLOSE_TIMEOUT_S)
            finally:
                self._requests.forget(number)

    def _counted(self, change: int) -> None:
        if change > 0:
            self._open.append(None)
        else:
            self._open.pop()

    def _known(self) -> list[ClusterListener]:
        with self._lock:
            return list(self._listeners)

    def cluster_stops(self) -> None:
        """Take note that nobody else will accept what `stop` would leave."""
        self._ends.add("cluster")

    def stop(self) -> bool:
        """Accept nothing more from those that are shared; of the others the master does that.

        What waits in one that ends now is accepted before: a share of it at a time, as other
        workers do the same, and no more than a backlog holds. Returns whether there may be more of
        that, and this is to be called again.
        """
        self._turns += 1
        with self._lock:
            asking = list(self._asking)
        for future in asking:
            future.cancel()
        is_late = self._turns > MAX_SHARES
        goes_on = False
        for listener in self._known():
            if not isinstance(listener, HeldListener):
                continue
            ends = listener.ends_with in self._ends
            if ends and listener.take_some(SHARE) and not is_late:
                goes_on = True
            else:
                listener.end()
        return goes_on

    def is_idle(self) -> bool:
        """Whether no connection is open, and none was handed over that is still to be taken."""
        handed = [one for one in self._known() if isinstance(one, HandedListener)]
        return not self._open and not any(one.has_connection() for one in handed)


def _listens(sock: socket.socket) -> bool:
    return bool(sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))
