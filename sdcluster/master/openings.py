"""The listeners that workers of a program ask for: each address is bound once, for all of them.

In round-robin the master accepts and hands each connection to one of the workers that listen
there; in shared they get the listener itself, and so they do where datagrams are received. A
listener stays open while no worker is there for it, so that nobody is refused; it is closed when
the last worker that has it closes it and goes on. A program that ends closes what it has, too, and
does not mean it.
"""

import errno
import json
import os
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from sdcluster.address import Address, parse, same_as_socket
from sdcluster.core.balance import Rules
from sdcluster.errors import ListenError, ProtocolError
from sdcluster.loops import EventLoop
from sdcluster.master.channels import WorkerChannel
from sdcluster.master.dispatch import Dispatcher
from sdcluster.master.listeners import BACKLOG, Listener, adopt, bind

CLOSE_DELAY_S = 1.0
"""How long a listener that its last worker has closed stays: a program that ends closes it too."""


@dataclass(slots=True, eq=False)
class Opening:
    """One listener, and the channels of the workers that get its connections, by worker."""

    key: int
    where: str
    listener: Listener
    dispatcher: Dispatcher | None
    """None when the workers accept by themselves."""
    is_exclusive: bool
    """It is for one worker, and ends with it."""
    told: Mapping[str, Any]
    """What workers are told of it."""
    holders: dict[int, WorkerChannel | None] = field(default_factory=dict)
    closed_by: int | None = None
    """The worker that was the last to have it, and has closed it."""


class Openings:
    """All listeners of a program."""

    def __init__(
        self,
        loop: EventLoop,
        passed: Sequence[tuple[int, str]] = (),
        *,
        on_exhausted: Callable[[OSError], None],
    ) -> None:
        """`passed` are the sockets of systemd's, as (descriptor, name). Raises `ConfigError`."""
        self._inherited = adopt(passed, (), datagrams=True)
        self._loop = loop
        self._on_exhausted = on_exhausted
        self._openings: dict[str, Opening] = {}
        self._keys = 0

    def open(
        self, worker: int, request: Mapping[str, Any], *, shared: bool
    ) -> tuple[Mapping[str, Any], list[int]]:
        """Return what a worker is told of its new listener, and the descriptors it gets.

        Raises `ListenError`, OSError when the process is out of descriptors, and for a request that
        makes no sense `ProtocolError`.
        """
        wanted = _Request(request)
        shared = shared or wanted.exclusive or wanted.datagrams
        where = wanted.identity(worker)
        opening = self._openings.get(where)
        if opening is None:
            opening = self._bind(where, wanted, shared=shared)
        if worker in opening.holders:
            in_use = OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))
            raise ListenError(f"this worker listens on {wanted.address} already") from in_use
        descriptors = self._hold(opening, worker)
        opening.closed_by = None
        if opening.dispatcher is not None:
            opening.dispatcher.set_rules(Rules(max_connections=wanted.max_connections))
        return {**opening.told, "max_connections": wanted.max_connections}, descriptors

    def _hold(self, opening: Opening, worker: int) -> list[int]:
        """Let a worker have connections of a listener; return the descriptors it gets."""
        if opening.dispatcher is None:
            if opening.listener.socket.fileno() < 0:
                stopped = OSError(errno.ESHUTDOWN, os.strerror(errno.ESHUTDOWN))
                raise ListenError("the cluster stops") from stopped
            opening.holders[worker] = None
            return [opening.listener.socket.fileno()]
        dispatcher, channel = opening.dispatcher, WorkerChannel(frame_limit=1)
        opening.holders[worker] = channel
        dispatcher.add(channel)
        self._loop.add(channel.fileno(), lambda: self._hear(channel, dispatcher))
        return channel.descriptors()

    def _bind(self, where: str, wanted: "_Request", *, shared: bool) -> Opening:
        listener = self._find_inherited(wanted) or wanted.bind()
        self._keys += 1
        listener.socket.setblocking(False)
        dispatcher = None
        if not shared:
            dispatcher = Dispatcher(self._loop, on_exhausted=self._on_exhausted)
            dispatcher.watch(listener.socket)
        sock = listener.socket
        told = {
            "key": self._keys,
            "family": int(sock.family),
            "name": _name(sock.getsockname()),
            "datagrams": wanted.datagrams,
            "ends_with": _end(listener, is_exclusive=wanted.exclusive),
        }
        opening = Opening(self._keys, where, listener, dispatcher, wanted.exclusive, told)
        self._openings[where] = opening
        return opening

    def _find_inherited(self, wanted: "_Request") -> Listener | None:
        """Return the socket of systemd's that is asked for, by its name or by its address."""
        for listener in self._inherited:
            sock = listener.socket
            if (sock.type == socket.SOCK_DGRAM) != wanted.datagrams:
                continue
            if wanted.name:
                found = listener.name == wanted.name
            else:
                found = same_as_socket(wanted.address, sock.family, sock.getsockname())
            if found:
                return listener
        return None

    def given(self, worker: int, key: int) -> None:
        """The worker has its descriptors: release what the master has no use for."""
        for opening in self._openings.values():
            channel = opening.holders.get(worker)
            if opening.key == key and channel is not None:
                channel.given()

    def close(self, worker: int, key: int, *, leaves: bool) -> None:
        """A worker has closed a listener, maybe as it `leaves`. Harmless when it has none such."""
        for opening in list(self._openings.values()):
            if opening.key == key and worker in opening.holders:
                self._release(opening, worker)
                if opening.is_exclusive:
                    self._end(opening)
                elif not opening.holders and not leaves:
                    opening.closed_by = worker
                    self._loop.call_later(CLOSE_DELAY_S, partial(self._end_closed, opening, worker))

    def _end_closed(self, opening: Opening, worker: int) -> None:
        """Close a listener that nobody has, if the worker that closed it goes on without it."""
        if opening.closed_by == worker and not opening.holders:
            self._end(opening)

    def retire(self, worker: int) -> None:
        """Give a worker no more connections; those it was given it may still take."""
        for opening in self._openings.values():
            channel = opening.holders.get(worker)
            if channel is not None and opening.dispatcher is not None:
                opening.dispatcher.remove(channel)

    def stop(self) -> None:
        """Give the workers what waits in the backlogs, and let nobody connect any more."""
        for opening in self._openings.values():
            inherited = opening.listener.inherited
            if opening.dispatcher is not None:
                opening.dispatcher.unwatch(opening.listener.socket)
                if not inherited:
                    opening.dispatcher.accept_all(opening.listener.socket)
            if not inherited:
                opening.listener.close()  # One of systemd's stays, with what waits in it.

    def gone(self, worker: int) -> None:
        """A worker is dead: what it had not taken is given to others."""
        for opening in list(self._openings.values()):
            if opening.closed_by == worker:
                opening.closed_by = None  # It ended: that was no wish to close it.
            if worker in opening.holders:
                self._release(opening, worker)
                if opening.is_exclusive:
                    self._end(opening)

    def _release(self, opening: Opening, worker: int) -> None:
        channel = opening.holders.pop(worker)
        if channel is None or opening.dispatcher is None:
            return
        opening.dispatcher.remove(channel)
        self._loop.remove(channel.fileno())
        opening.dispatcher.give_back(channel.untaken())
        channel.close()

    def _hear(self, channel: WorkerChannel, dispatcher: Dispatcher) -> None:
        """Take note that a worker has taken connections."""
        try:
            while channel.read() is not None:
                dispatcher.room()
        except ProtocolError:
            # It has shut the listener down, say, and will take nothing any more.
            self._loop.remove(channel.fileno())
            dispatcher.remove(channel)

    def _end(self, opening: Opening) -> None:
        self._openings.pop(opening.where, None)
        if opening.dispatcher is not None:
            opening.dispatcher.close()
        if not opening.listener.inherited:
            opening.listener.close()

    def close_all(self) -> None:
        """Close everything."""
        for opening in list(self._openings.values()):
            for worker in list(opening.holders):
                self._release(opening, worker)
            self._end(opening)
        for listener in self._inherited:
            listener.close()


_NOWHERE = Address("unix", "", 0, "")


class _Request:
    """What a worker asked for, checked."""

    def __init__(self, request: Mapping[str, Any]) -> None:
        try:
            self.name = str(request.get("name", ""))
            self.address = parse(str(request["address"])) if not self.name else _NOWHERE
            self.backlog = min(max(0, int(request.get("backlog", BACKLOG))), 65535)
            self.exclusive = bool(request.get("exclusive", False))
            self.datagrams = bool(request.get("datagrams", False))
            self.max_connections = max(0, int(request.get("max_connections", 0)))
            self.reuse_port = bool(request.get("reuse_port", False))
            ipv6_only = request.get("ipv6_only")
            self.ipv6_only = None if ipv6_only is None else bool(ipv6_only)
            self._turn = int(request.get("turn", 0))
        except (KeyError, TypeError, ValueError) as error:
            raise ProtocolError(f"a listener that makes no sense: {error}") from error

    def bind(self) -> Listener:
        """Return a new listener. Raises `ListenError`."""
        if self.name:
            missing = OSError(errno.ENOENT, os.strerror(errno.ENOENT))
            raise ListenError(f"systemd has passed no socket named {self.name}") from missing
        return bind(
            self.address,
            reuse_port=self.reuse_port,
            backlog=self.backlog,
            ipv6_only=self.ipv6_only,
            datagrams=self.datagrams,
        )

    def identity(self, worker: int) -> str:
        """Return what is equal for the workers that are to share a listener."""
        own = worker if self.exclusive else 0
        where = [self.name, str(self.address), self.ipv6_only, self.datagrams]
        return json.dumps([*where, self._turn, own])


def _end(listener: Listener, *, is_exclusive: bool) -> str:
    """Return with whom a listener ends; one of systemd's does not."""
    if listener.inherited:
        return ""
    return "worker" if is_exclusive else "cluster"


def _name(name: Any) -> Any:
    return os.fsdecode(name) if isinstance(name, bytes) else name
