"""The engine's protocols, which tell their connection where requests begin and responses end.

uvicorn has two of HTTP/1.1: one on httptools, one on h11. Both have hooks of the same names in all
versions from 0.17 on.
"""

import functools
from collections import deque
from typing import Any


def movable(cls: Any) -> Any:
    """Return a subclass for a `MovableConnection`; None for a protocol that is not known."""
    name = f"{cls.__module__}.{cls.__qualname__}"
    if name == "uvicorn.protocols.http.httptools_impl.HttpToolsProtocol":
        return _with_httptools(cls)
    if name == "uvicorn.protocols.http.h11_impl.H11Protocol":
        return _with_h11(cls)
    return None


def is_waiting(protocol: Any) -> bool:
    """Tell whether a connection asks nothing: it is HTTP's, and no request waits for an answer."""
    if not hasattr(protocol, "cycle"):
        return False  # It is a WebSocket.
    return protocol.cycle is None or bool(protocol.cycle.response_complete)


def is_awaited(protocol: Any) -> bool:
    """Tell whether more of a request is to come, which the app waits for and has not answered."""
    cycle = getattr(protocol, "cycle", None)
    if cycle is None or cycle.response_complete or cycle.response_started:
        return False
    return bool(cycle.more_body) and not cycle.body


class _Waiting:
    """What both have in common: the request that the app is at work on is `cycle`."""

    cycle: Any
    loop: Any
    _is_bad = False
    """Whether what has come is no request."""

    def send_400_response(self, msg: str) -> None:
        """Answer what is no request."""
        self._is_bad = True
        super().send_400_response(msg)  # type: ignore[misc]

    def is_waiting(self) -> bool:
        """Tell whether the app has nothing to do: no request is begun, or not all of its head."""
        return self.cycle is None or bool(self.cycle.response_complete)

    def is_to_close(self) -> bool:
        """Tell whether the connection ends with the response that is under way."""
        return not self.cycle.keep_alive

    def has_answered(self, send: Any) -> None:
        """Keep what `send` sends out of the access log, as another worker has sent it."""
        send.__self__.access_log = False

    def wait_for_request(self) -> None:
        """Begin to wait for the next request of a connection that has had some elsewhere."""
        protocol: Any = self
        protocol.timeout_keep_alive_task = self.loop.call_later(
            protocol.timeout_keep_alive, protocol.timeout_keep_alive_handler
        )


@functools.cache
def _with_httptools(cls: Any) -> Any:
    begin = getattr(cls, "on_message_begin", None)
    end = cls.on_message_complete
    complete = cls.on_response_complete
    upgrade_name = next((name for name in _UPGRADES if hasattr(cls, name)), "")
    upgrade: Any = getattr(cls, upgrade_name, None)

    class Movable(_Waiting, cls):  # type: ignore[misc]
        _begun = 0
        """Requests that have begun and whose responses are not complete."""
        _ended_at = -1
        """Where that was read, in bytes ever, in which a request ended last."""
        _is_owed = False
        """Whether a response was complete before its request was."""
        _is_paid = False
        """Whether that is there now."""
        _has_upgrade = False
        """Whether it is to become a WebSocket when all before it is answered."""

        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)
            self._behind: deque[tuple[Any, int]] = deque()
            """What is before each request that came behind another: the other's cycle, and bytes
            ever read; -1 when that is not known."""

        def is_more_to_come(self) -> bool:
            """Tell whether the client may be sending: the rest of a request, or another."""
            cycle = self.cycle
            if self._begun > 1 or self._is_owed or self._is_bad:
                return True
            return self._begun == 1 and cycle is not None and bool(cycle.more_body)

        def on_message_begin(self) -> None:
            if self._begun:
                start = self._start()
                if start < 0:
                    self.transport.pin()
                self._behind.append((self.cycle, start))
                self.transport.begin_next(start)
            elif self._is_owed:
                self._is_owed = self._is_paid = False
                start = self._start()
                if start >= 0:
                    self.transport.settled(self.transport.consumed - start)
            self._begun += 1
            if begin is not None:
                begin(self)

        def _start(self) -> int:
            """Return how many bytes were read before the request that begins now; -1 if unknown."""
            transport = self.transport
            at: int = transport.reading_at
            if self._ended_at < at:
                return at
            # Both are in what was read at once, somewhere.
            last = self._behind[-1][1] if self._behind else transport.base
            end: int = transport.request_end(last) if last >= 0 else -1
            return end if at < end < transport.consumed else -1

        def on_message_complete(self) -> None:
            self._ended_at = self.transport.reading_at
            if self._is_owed:
                self._is_paid = True
                self.loop.call_soon(self._settle)  # The next one may be there as well.
            end(self)

        def _settle(self) -> None:
            if self._is_paid and not self.transport.is_closing():
                self._is_owed = self._is_paid = False
                self.transport.settled(0)

        def on_response_complete(self) -> None:
            if self._begun > 1:
                self._complete_before_another()
                return
            is_whole = not self.cycle.more_body
            complete(self)
            self._begun = 0
            transport = self.transport
            if transport.is_closing():
                return
            if is_whole:
                transport.answered()
            else:
                self._is_owed = True
                transport.owe()

        def _complete_before_another(self) -> None:
            start = self._behind.popleft()[1] if self._behind else -1
            complete(self)
            self._begun -= 1
            if self.transport.is_closing():
                return
            if start < 0:
                self.transport.pin()
            else:
                self.transport.answered(self.transport.consumed - start)
            if self._behind:
                self.transport.begin_next(self._behind[0][1])
            elif self._has_upgrade:
                self._has_upgrade = False
                self._unset_keepalive_if_required()
                upgrade(self)

        def _upgrade(self) -> None:
            if self._begun > 1:  # Or its answer would come before those of the others.
                self._has_upgrade = True
                self.flow.pause_reading()
            else:
                upgrade(self)

        def connection_lost(self, error: Exception | None) -> None:
            # The engine knows of the last request alone that the client is gone.
            behind, self._behind = self._behind, deque()
            for cycle, _ in behind:
                if not cycle.response_complete:
                    cycle.disconnected = True
                    cycle.message_event.set()
            super().connection_lost(error)

    if upgrade is not None:
        setattr(Movable, upgrade_name, Movable._upgrade)
    return Movable


_UPGRADES = ("handle_websocket_upgrade", "handle_upgrade")
"""What the method is called that makes a connection a WebSocket, from new versions to old ones."""


@functools.cache
def _with_h11(cls: Any) -> Any:
    from h11 import DONE, IDLE, SEND_BODY

    receive = cls.data_received
    complete = cls.on_response_complete

    class Movable(_Waiting, cls):  # type: ignore[misc]
        _is_owed = False
        """Whether a response was complete before its request was."""

        def data_received(self, data: bytes) -> None:
            receive(self, data)
            if self.transport.is_closing():
                return
            if self._is_owed:
                self._settle()
            self._look_for_next()

        def is_more_to_come(self) -> bool:
            """Tell whether the client may be sending: the rest of a request, or another."""
            conn = self.conn
            return self._is_bad or conn.their_state is SEND_BODY or bool(conn.trailing_data[0])

        def _look_for_next(self) -> None:
            """Look whether the next request has begun, and none has said so."""
            if self.conn.their_state is DONE and (behind := len(self.conn.trailing_data[0])):
                self.transport.begin_next(self.transport.consumed - behind)

        def _settle(self) -> None:
            """Look whether the request that was answered before is there now."""
            transport = self.transport
            end = transport.request_end(transport.base)
            if 0 <= end <= transport.consumed:
                self._is_owed = False
                transport.settled(transport.consumed - end)
            elif end < 0 and self.conn.their_state is IDLE and not self.conn.trailing_data[0]:
                self._is_owed = False
                transport.settled(0)

        def on_response_complete(self) -> None:
            rest = len(self.conn.trailing_data[0])
            self._is_owed = self.conn.their_state is not DONE
            complete(self)
            if self.transport.is_closing():
                return
            if self._is_owed:
                self.transport.owe()
            else:
                self.transport.answered(rest)
                self._look_for_next()

    return Movable
