"""Asks a running master, over its control socket."""

import socket
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from sdcluster import runtime
from sdcluster.config import MAX_WORKERS
from sdcluster.errors import ControlError, ProtocolError, reason_of
from sdcluster.wire import varlink

_ERRORS = {
    f"{varlink.INTERFACE}.Stopping": "the cluster is stopping",
    varlink.INVALID_PARAMETER: f"a cluster has from 1 to {MAX_WORKERS} workers",
    varlink.METHOD_NOT_FOUND: "the running master is of another version",
}


class Master:
    """A connection to the master of an instance."""

    def __init__(self, name: str, *, timeout_s: float | None = 10.0) -> None:
        """Connect. Raises `ControlError` when no such instance runs, or access is denied.

        `timeout_s` limits the wait for each reply; None waits for ever.
        """
        self._name = name
        self._socket = _connect(name)
        self._socket.settimeout(timeout_s)
        # A reply holds every worker, a call does not: the limits differ.
        self._splitter = varlink.Splitter(16 * varlink.MAX_MESSAGE_BYTES)

    def __enter__(self) -> "Master":
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def call(self, method: str, **parameters: Any) -> Mapping[str, Any]:
        """Call a method of `io.sdcluster.Control` and return its reply. Raises `ControlError`."""
        *_, last = self.call_more(method, more=False, **parameters)
        return last

    def call_more(
        self, method: str, *, more: bool = True, **parameters: Any
    ) -> Iterator[Mapping[str, Any]]:
        """Call a method and return each of its replies as it comes. Raises `ControlError`."""
        call = varlink.Call(f"{varlink.INTERFACE}.{method}", parameters, more=more)
        try:
            self._socket.sendall(varlink.encode(call))
            while True:
                for message in self._receive():
                    reply = varlink.decode_reply(message)
                    if reply.error:
                        raise ControlError(_text(reply))
                    yield reply.parameters
                    if not reply.continues:
                        return
        except TimeoutError as error:
            raise ControlError(f"the master of {self._name} does not answer") from error
        except (OSError, ProtocolError) as error:
            raise ControlError(f"lost the master of {self._name}: {reason_of(error)}") from error

    def _receive(self) -> list[bytes]:
        data = self._socket.recv(64 * 1024)
        if not data:
            raise ControlError(f"the master of {self._name} closed the connection")
        return self._splitter.feed(data)


def _connect(name: str) -> socket.socket:
    paths = runtime.control_sockets(name)
    for path in paths:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            connection.connect(str(path))
        except OSError as error:
            connection.close()
            if isinstance(error, PermissionError):
                raise ControlError(
                    f"access to {path} is denied; be root or the user that {name} runs as"
                ) from error
            continue
        return connection
    raise ControlError(f"{name} does not run: no master listens on {_either(paths)}")


def _either(paths: list[Path]) -> str:
    return " or ".join(str(path) for path in paths)


def _text(reply: varlink.Reply) -> str:
    reason = reply.parameters.get("reason")
    if reply.error == f"{varlink.INTERFACE}.TooFewWorkers":
        fewest = reply.parameters.get("fewest")
        return f"with reuseport and exec each of the {fewest} sockets needs its worker: not fewer"
    return str(reason) if reason else _ERRORS.get(reply.error, reply.error)
