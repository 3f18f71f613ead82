"""What a worker of a program asks for when it wants to listen, checked."""

import errno
import json
import os
import socket
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from sdcluster.config.address import MAX_FILE_PATH_BYTES, Address, parse, same_as_socket
from sdcluster.errors import ListenError, ProtocolError
from sdcluster.master.connections.listeners import BACKLOG, Listener, bind

_NOWHERE = Address("unix", "", 0, "")


class Wanted:
    """A listener that is wanted."""

    def __init__(self, request: Any) -> None:
        """Raises `ProtocolError` for a request that makes no sense."""
        if not isinstance(request, dict):
            raise ProtocolError("a listener that makes no sense")
        try:
            self.name = str(request.get("name", ""))
            self.address = _NOWHERE if self.name else _address(str(request["address"]))
            self.backlog = min(max(0, int(request.get("backlog", BACKLOG))), 65535)
            self.exclusive = bool(request.get("exclusive", False))
            self.datagrams = bool(request.get("datagrams", False))
            self.max_connections = max(0, int(request.get("max_connections", 0)))
            self.reuse_port = bool(request.get("reuse_port", False))
            ipv6_only = request.get("ipv6_only")
            self.ipv6_only = None if ipv6_only is None else bool(ipv6_only)
            self._turn = int(request.get("turn", 0))
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise ProtocolError(f"a listener that makes no sense: {error}") from error

    @property
    def is_each_for_one(self) -> bool:
        """Whether each worker is to have one of its own; Unix sockets know no such thing."""
        return self.datagrams and self.reuse_port and self.address.family != "unix"

    def bind(self, *, beside: Listener | None) -> Listener:
        """Return a new listener, on the port of one that it is to be beside. Raises `ListenError`.

        A path that is too long is shortened, see `listeners.bind`.
        """
        if self.name:
            missing = OSError(errno.ENOENT, os.strerror(errno.ENOENT))
            raise ListenError(f"systemd has passed no socket named {self.name}") from missing
        address = self.address
        if beside is not None:
            address = replace(address, port=beside.socket.getsockname()[1])
        return bind(
            address,
            reuse_port=self.reuse_port,
            backlog=self.backlog,
            ipv6_only=self.ipv6_only,
            datagrams=self.datagrams,
        )

    def find(self, inherited: Sequence[Listener]) -> Listener | None:
        """Return the socket of systemd's that is asked for, by its name or by its address."""
        for listener in inherited:
            sock = listener.socket
            if (sock.type == socket.SOCK_DGRAM) != self.datagrams:
                continue
            if self.name:
                found = listener.name == self.name
            else:
                found = same_as_socket(self.address, sock.family, sock.getsockname())
            if found:
                return listener
        return None

    def identity(self, worker: int) -> str:
        """Return what is equal for the workers that are to share a listener."""
        own = worker if self.exclusive else 0
        where = [self.name, str(self.address), self.ipv6_only, self.datagrams]
        return json.dumps([*where, self._turn, own, self.is_each_for_one])

    def bound_to(self, listener: Listener) -> Any:
        """Return what a listener is bound to, as getsockname(2) has it: a path in full."""
        if listener.path:
            return listener.path
        name = listener.socket.getsockname()
        return os.fsdecode(name) if isinstance(name, bytes) else name


def _address(text: str) -> Address:
    return parse(text, max_path_bytes=MAX_FILE_PATH_BYTES)
