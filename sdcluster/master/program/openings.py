"""The listeners that workers of a program ask for: each address is bound once, for all of them.

In round-robin the master accepts and hands each connection to one of the workers that listen
there; in shared they get the listener itself, and so they do where datagrams are received. A
listener stays open while no worker is there for it, so that nobody is refused; it is closed when
the last worker that has it closes it on purpose. A program that ends closes what it has, too, and
does not mean it.

Of sockets that receive datagrams with `reuse_port` each worker gets one of its own, by which the
kernel has all that a client sends come to one worker; and another one each time that it asks.
"""

import errno
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from sdcluster.errors import ListenError, ProtocolError
from sdcluster.master.connections.channels import Frame, Passage, WorkerChannel
from sdcluster.master.connections.dispatch import Dispatcher
from sdcluster.master.connections.listeners import Listener, adopt
from sdcluster.master.host import closing
from sdcluster.master.program.listen_order import Wanted
from sdcluster.system.event_loop import EventLoop
from sdcluster.wire.notify import Notification

CLOSE_DELAY_S = 1.0
"""How long a listener stays that its last worker has closed as if it were to end."""


@dataclass(slots=True, eq=False)
class Opening:
    """One listener, and the channels of the workers that get its connections, by worker."""

    key: int
    where: str
    """What is asked for, for those that share it."""
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
        self._openings: dict[int, Opening] = {}
        """Those that are open, by key."""
        self._ended: list[Opening] = []
        """Those that are closed, and have given workers what these are still to take."""
        self._retired: set[int] = set()
        """Workers that get nothing more, and are not dead."""
        self._keys = 0

    def open(
        self, worker: int, request: Any, *, shared: bool
    ) -> tuple[Mapping[str, Any], list[int]]:
        """Return what a worker is told of its new listener, and the descriptors it gets.

        Raises `ListenError`, OSError when the process is out of descriptors, and for a request that
        makes no sense `ProtocolError`.
        """
        wanted = Wanted(request)
        opening = self._find(worker, wanted, shared=shared)
        if worker in opening.holders:
            in_use = OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))
            raise ListenError(f"this worker listens on {wanted.address} already") from in_use
        descriptors = self._hold(opening, worker, wanted.max_connections)
        opening.closed_by = None
        return {**opening.told, "max_connections": wanted.max_connections}, descriptors

    def _find(self, worker: int, wanted: Wanted, *, shared: bool) -> Opening:
        """Return the listener that a worker is to have, bound now if it is not there."""
        where = wanted.identity(worker)
        there = self._for(where)
        for opening in there:
            if not wanted.is_each_for_one or opening.listener.inherited or not opening.holders:
                return opening
        beside = there[0].listener if there else None
        return self._bind(where, wanted, shared=shared, beside=beside)

    def _for(self, where: str) -> list[Opening]:
        return [one for one in self._openings.values() if one.where == where]

    def _hold(self, opening: Opening, worker: int, max_connections: int) -> list[int]:
        """Let a worker have connections of a listener; return the descriptors it gets."""
        if opening.dispatcher is None:
            if opening.listener.socket.fileno() < 0:
                stopped = OSError(errno.ESHUTDOWN, os.strerror(errno.ESHUTDOWN))
                raise ListenError("the cluster stops") from stopped
            opening.holders[worker] = None
            return [opening.listener.socket.fileno()]
        dispatcher, channel = opening.dispatcher, WorkerChannel(frame_limit=1)
        opening.holders[worker] = channel
        dispatcher.add(channel, max_connections=max_connections)
        self._loop.add(channel.fileno(), lambda: self._hear(channel, dispatcher))
        return channel.descriptors()

    def _bind(
        self, where: str, wanted: Wanted, *, shared: bool, beside: Listener | None
    ) -> Opening:
        listener = wanted.find(self._inherited) or wanted.bind(beside=beside)
        self._keys += 1
        listener.socket.setblocking(False)
        dispatcher = None
        if not (shared or wanted.exclusive or wanted.datagrams):
            dispatcher = Dispatcher(self._loop, on_exhausted=self._on_exhausted)
            dispatcher.watch(listener.socket)
        told = {
            "key": self._keys,
            "family": int(listener.socket.family),
            "name": wanted.bound_to(listener),
            "datagrams": wanted.datagrams,
            "ends_with": _end(listener, is_exclusive=wanted.exclusive),
        }
        opening = Opening(self._keys, where, listener, dispatcher, wanted.exclusive, told)
        self._openings[opening.key] = opening
        return opening

    def given(self, worker: int, key: int) -> None:
        """The worker has its descriptors: release what the master has no use for."""
        opening = self._openings.get(key)
        channel = opening.holders.get(worker) if opening is not None else None
        if channel is not None:
            channel.given()

    def close(self, worker: int, key: int, *, is_meant: bool, leaves: bool) -> None:
        """A worker has closed a listener; if that `is_meant`, it goes on without it.

        It `leaves` when it is to end. Harmless when it has none such.
        """
        for opening in self._held_by(worker):
            if opening.key != key:
                continue
            self._release(opening, worker)
            if self._is_spare(opening) or (is_meant and self._is_left(opening)):
                self._end(opening)
            elif self._is_left(opening) and not leaves:
                opening.closed_by = worker
                self._loop.call_later(CLOSE_DELAY_S, partial(self._end_closed, opening, worker))

    def _is_left(self, opening: Opening) -> bool:
        """Tell whether nobody is there who would get what comes."""
        return self._retired.issuperset(opening.holders)

    def _end_closed(self, opening: Opening, worker: int) -> None:
        """Close a listener that nobody has, if the worker that closed it goes on without it."""
        if opening.closed_by == worker and self._is_left(opening):
            self._end(opening)

    def retire(self, worker: int) -> None:
        """Give a worker no more connections; those it was given it may still take."""
        self._retired.add(worker)
        for opening in self._held_by(worker):
            channel = opening.holders[worker]
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
        self._retired.discard(worker)
        for opening in self._openings.values():
            if opening.closed_by == worker:
                opening.closed_by = None  # It ended: that was no wish to close it.
        for opening in self._held_by(worker):
            self._release(opening, worker)
            if self._is_spare(opening):
                self._end(opening)

    def _is_spare(self, opening: Opening) -> bool:
        """Tell whether nobody is to have it any more, or there are others of the same address."""
        if opening.is_exclusive:
            return True
        return not opening.holders and self._for(opening.where) != [opening]

    def _held_by(self, worker: int) -> Iterator[Opening]:
        for opening in [*self._openings.values(), *self._ended]:
            if worker in opening.holders:
                yield opening

    def _release(self, opening: Opening, worker: int) -> None:
        channel = opening.holders.pop(worker)
        if channel is not None and opening.dispatcher is not None:
            opening.dispatcher.remove(channel)
            self._loop.remove(channel.fileno())
            opening.dispatcher.give_back(channel.untaken())
            channel.close()
        if opening in self._ended and not opening.holders:
            self._ended.remove(opening)
            self._close_dispatcher(opening)

    def _hear(self, channel: WorkerChannel, dispatcher: Dispatcher) -> None:
        """Take note that a worker has taken connections."""
        try:
            while (said := channel.read()) is not None:
                _refuse_connections(said)
                dispatcher.room()
        except (ProtocolError, OSError):
            # It has shut the listener down, say, and will take nothing any more.
            self._loop.remove(channel.fileno())
            dispatcher.remove(channel)

    def _end(self, opening: Opening) -> None:
        """Close a listener. Workers that are to leave may still take what they were given."""
        if self._openings.pop(opening.key, None) is None:
            return
        if opening.dispatcher is not None:
            opening.dispatcher.unwatch(opening.listener.socket)
        if not opening.listener.inherited:
            opening.listener.close()
        if opening.holders:
            self._ended.append(opening)
        else:
            self._close_dispatcher(opening)

    def _close_dispatcher(self, opening: Opening) -> None:
        if opening.dispatcher is not None:
            opening.dispatcher.close()

    def close_all(self) -> None:
        """Close everything."""
        for opening in [*self._openings.values(), *self._ended]:
            for worker in list(opening.holders):
                self._release(opening, worker)
            self._end(opening)
        for listener in self._inherited:
            listener.close()


def _refuse_connections(said: Frame) -> None:
    """Raise `ProtocolError` when a worker hands over connections: it has no reason to."""
    if not isinstance(said, Notification):
        closing.close([said.fd] if isinstance(said, Passage) else list(said.fds))
        raise ProtocolError("it hands over connections")


def _end(listener: Listener, *, is_exclusive: bool) -> str:
    """Return with whom a listener ends; one of systemd's does not."""
    if listener.inherited:
        return ""
    return "worker" if is_exclusive else "cluster"
