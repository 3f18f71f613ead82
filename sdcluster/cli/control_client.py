"""Asks a running master, over its control socket."""

import contextlib
import os
import socket
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from sdcluster.cli.plain_text import plain, plain_values
from sdcluster.config.model import MAX_WORKERS
from sdcluster.errors import ControlError, ProtocolError, reason_of
from sdcluster.system import runtime
from sdcluster.system.runtime import peer_uid
from sdcluster.wire import varlink

CONNECT_TIMEOUT_S = 10.0
NONSENSE = "what answers for {} makes no sense"

_ERRORS = {
    f"{varlink.INTERFACE}.Stopping": "the cluster is stopping",
    f"{varlink.INTERFACE}.TooManyCallers": "too many wait for a reload already; ask again later",
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

    def version(self) -> str:
        """Return the version of sdcluster that the master runs. Raises `ControlError`."""
        *_, info = self._replies(f"{varlink.SERVICE_INTERFACE}.GetInfo", {}, more=False)
        return str(info.get("version", "unknown"))

    def call(self, method: str, **parameters: Any) -> Mapping[str, Any]:
        """Call a method of `io.sdcluster.Control` and return its reply. Raises `ControlError`."""
        *_, last = self.call_more(method, more=False, **parameters)
        return last

    def call_more(
        self, method: str, *, more: bool = True, **parameters: Any
    ) -> Iterator[Mapping[str, Any]]:
        """Call a method and return each of its replies as it comes. Raises `ControlError`.

        There is nothing in them that a terminal would obey.
        """
        return self._replies(f"{varlink.INTERFACE}.{method}", parameters, more=more)

    def _replies(
        self, method: str, parameters: Mapping[str, Any], *, more: bool
    ) -> Iterator[Mapping[str, Any]]:
        call = varlink.Call(method, parameters, more=more)
        try:
            self._socket.sendall(varlink.encode(call))
            while True:
                for message in self._receive():
                    reply = varlink.decode_reply(message)
                    values = plain_values(reply.parameters)
                    if reply.error:
                        raise ControlError(_text(plain(reply.error), values))
                    yield values
                    if not reply.continues:
                        return
        except TimeoutError as error:
            raise ControlError(f"the master of {self._name} does not answer") from error
        except RecursionError as error:
            raise ControlError(NONSENSE.format(self._name)) from error
        except (OSError, ProtocolError) as error:
            raise ControlError(f"lost the master of {self._name}: {reason_of(error)}") from error

    def _receive(self) -> list[bytes]:
        data = self._socket.recv(64 * 1024)
        if not data:
            raise ControlError(f"the master of {self._name} closed the connection")
        return self._splitter.feed(data)


def _connect(name: str) -> socket.socket:
    """Return a connection to the first place that a master listens on.

    If there is none, the error tells the reason that helps most: who listens in the master's place,
    else which place is denied, else where nobody is.
    """
    paths = runtime.control_sockets(name)
    strange = denied = ""
    for path in paths:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        _limit_wait(connection)
        try:
            connection.connect(str(path))
            uid = peer_uid(connection)
            if _is_believed(uid, path.parent):
                return connection
            strange = strange or (
                f"what listens on {path} runs as user {uid}, and is not taken for the master of "
                f"{name}; ask as that user, if it is"
            )
        except PermissionError:
            denied = denied or (
                f"access to {path} is denied; be root or the user that {name} runs as"
            )
        except BlockingIOError as error:
            connection.close()
            raise ControlError(f"the master of {name} does not answer") from error
        except OSError:
            pass  # Nobody listens here.
        connection.close()
    nobody = f"{name} does not run: no master listens on {_either(paths)}"
    raise ControlError(strange or denied or nobody)


def _limit_wait(connection: socket.socket) -> None:
    """Have connect(2) not wait for ever while a stuck master's backlog is full, see socket(7)."""
    timeval = struct.pack("ll", int(CONNECT_TIMEOUT_S), int(CONNECT_TIMEOUT_S % 1 * 1e6))
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, timeval)


def _is_believed(uid: int, folder: Path) -> bool:
    """Tell whether a server that runs as `uid` may be the master that `folder` belongs to.

    Root and the client's own user are. A master listens for nobody else but root, so root alone
    meets others: the user of a service, `sdcluster` or one of DynamicUser=. It believes the one who
    owns the folder, if only root can have put it there, as systemd does below /run/sdcluster. Below
    /tmp and a user's own folders anybody could, and tell root what they like.
    """
    own = os.geteuid()
    if uid in (0, own):
        return True
    above = os.stat(folder.parent)
    placed_by_root = above.st_uid == 0 and not above.st_mode & 0o022
    return own == 0 and placed_by_root and os.stat(folder).st_uid == uid


def _either(paths: list[Path]) -> str:
    return " or ".join(str(path) for path in paths)


@contextlib.contextmanager
def understanding(name: str) -> Iterator[None]:
    """Take what an answer lacks, or has in its place, for its fault. Raises `ControlError`."""
    try:
        yield
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        raise ControlError(NONSENSE.format(name)) from error


def _text(error: str, parameters: Mapping[str, Any]) -> str:
    reason = parameters.get("reason")
    if error == f"{varlink.INTERFACE}.TooFewWorkers":
        fewest = parameters.get("fewest")
        return f"with reuseport and exec each of the {fewest} sockets needs its worker: not fewer"
    return str(reason) if reason else _ERRORS.get(error, error)
