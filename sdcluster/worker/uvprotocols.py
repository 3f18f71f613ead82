"""The engine's protocols, which tell their connection where requests begin and responses end.

uvicorn has two of HTTP/1.1: one on httptools, one on h11. Both have hooks of the same names in all
versions from 0.17 on.
"""

import functools
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


class _Waiting:
    """What both have in common: the request that the app is at work on is `cycle`."""

    cycle: Any
    loop: Any

    def is_waiting(self) -> bool:
        """Tell whether the app has nothing to do: no request is begun, or not all of its head."""
        return self.cycle is None or bool(self.cycle.response_complete)

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

    class Movable(_Waiting, cls):  # type: ignore[misc]
        _begun = 0
        """Requests that have begun and whose responses are not complete."""
        _ended_at = -1
        """Where that was read, in bytes ever, in which a request ended last."""
        _next_at = -1
        """Where the request begins that came before the last response was complete, if known."""
        _is_owed = False
        """Whether a response was complete before its request was."""

        def on_message_begin(self) -> None:
            at = self.transport.reading_at
            is_clear = self._ended_at < at  # Else both are in what was read at once, somewhere.
            if self._begun:
                self.transport.pin()
                self._next_at = at if is_clear and self._begun == 1 else -1
            elif self._is_owed:
                self._is_owed = False
                if is_clear:
                    self.transport.answered(self.transport.consumed - at)
            self._begun += 1
            if begin is not None:
                begin(self)

        def on_message_complete(self) -> None:
            self._ended_at = self.transport.reading_at
            end(self)

        def on_response_complete(self) -> None:
            complete(self)
            self._begun -= 1
            next_at, self._next_at = self._next_at, -1
            if self.transport.is_closing():
                return
            if self._begun:
                if next_at < 0:
                    self.transport.pin()
                else:
                    self.transport.answered(self.transport.consumed - next_at)
            elif self.cycle.more_body:
                self._is_owed = True
                self.transport.pin()
            else:
                self.transport.answered()

    return Movable


@functools.cache
def _with_h11(cls: Any) -> Any:
    from h11 import DONE, IDLE

    receive = cls.data_received
    complete = cls.on_response_complete

    class Movable(_Waiting, cls):  # type: ignore[misc]
        _is_owed = False
        """Whether a response was complete before its request was."""

        def data_received(self, data: bytes) -> None:
            receive(self, data)
            rest = self.conn.trailing_data[0]
            if not self.is_waiting():
                if rest:
                    self.transport.pin()  # The next request has begun before this is answered.
            elif self._is_owed and self.conn.their_state is IDLE and not rest:
                self._is_owed = False
                self.transport.answered()

        def on_response_complete(self) -> None:
            rest = len(self.conn.trailing_data[0])
            self._is_owed = self.conn.their_state is not DONE
            complete(self)
            if self.transport.is_closing():
                return
            if self._is_owed:
                self.transport.pin()
                return
            self.transport.answered(rest)
            if self.conn.trailing_data[0] and not self.is_waiting():
                self.transport.pin()  # There is another one behind the next.

    return Movable
