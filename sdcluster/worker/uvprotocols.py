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
    complete = cls.on_response_complete

    class Movable(_Waiting, cls):  # type: ignore[misc]
        _begun = 0
        """Requests that have begun and whose responses are not complete."""

        def on_message_begin(self) -> None:
            if self._begun:
                self.transport.pin()  # Where one ends and the other begins is not known.
            self._begun += 1
            if begin is not None:
                begin(self)

        def on_response_complete(self) -> None:
            complete(self)
            self._begun -= 1
            if self.transport.is_closing():
                return
            if self._begun or self.cycle.more_body:
                self.transport.pin()
            else:
                self.transport.answered()

    return Movable


@functools.cache
def _with_h11(cls: Any) -> Any:
    receive = cls.data_received
    complete = cls.on_response_complete

    class Movable(_Waiting, cls):  # type: ignore[misc]
        def data_received(self, data: bytes) -> None:
            receive(self, data)
            if not self.is_waiting() and self.conn.trailing_data[0]:
                self.transport.pin()  # The next request has begun before this one is answered.

        def on_response_complete(self) -> None:
            before = self.cycle
            complete(self)
            if self.transport.is_closing():
                return
            idle = self.conn.our_state is self.conn.their_state  # IDLE, both.
            if self.cycle is before and idle and not self.conn.trailing_data[0]:
                self.transport.answered()
            else:
                self.transport.pin()

    return Movable
