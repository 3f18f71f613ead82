"""Accepts connections and gives each to a worker, which `core.balance` chooses.

Nothing is refused. While no worker has room the master does not accept, and the backlog holds;
what a dead worker had not taken is given to another.
"""

import socket
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from sdcluster.core.balance import Rules, fewest_outstanding
from sdcluster.master.connections.channels import SENSELESS, Passage, Untaken, WorkerChannel
from sdcluster.master.connections.handoffs import Handoffs
from sdcluster.master.connections.listeners import BACKLOG
from sdcluster.master.connections.passages import Passages
from sdcluster.master.host import closing
from sdcluster.system.descriptors import EXHAUSTED, EXHAUSTED_RETRY_S
from sdcluster.system.event_loop import EventLoop, Timer

ACCEPTS_PER_TURN = 64
FULL_RETRY_S = 0.05
"""How long to wait for a worker to say that it has room before looking again."""


@dataclass(slots=True, eq=False)
class Seat:
    """A worker that gets connections, as the balance sees it."""

    channel: WorkerChannel
    generation: int
    slot: int
    max_connections: int = 0
    chosen: int = 0
    """Connections chosen for it, and not yet given."""
    credit: int = 0

    def outstanding(self) -> int:
        """Return how many connections it was given and has not taken."""
        return self.channel.outstanding() + self.chosen

    def connections(self) -> int:
        """Return how many connections it has open."""
        return self.channel.connections()

    def is_starved(self) -> bool:
        """Tell whether it has no descriptors for another connection."""
        return bool(self.channel.starved_ns())

    def latency_ns(self) -> int:
        """Return how long an answer of its is expected to take."""
        return self.channel.latency_ns()

    def measured_ns(self) -> int:
        """Return how long it was when it was last measured."""
        return self.channel.measured_ns()


class Dispatcher:
    """Spreads the connections of the listeners it watches over the workers it was given.

    `on_exhausted` is told, once until it gets better, why connections are left in the backlog.
    """

    def __init__(
        self,
        loop: EventLoop,
        rules: Rules = Rules(),  # noqa: B008  # It is frozen.
        *,
        on_exhausted: Callable[[OSError], None],
    ) -> None:
        self._loop = loop
        self._rules = rules
        self._balance = rules.balance()
        self._on_exhausted = on_exhausted
        self._listeners: dict[int, socket.socket] = {}
        self._seats: dict[WorkerChannel, Seat] = {}
        self._returned = Passages()
        """Connections that were accepted, and no longer are or were not yet a worker's."""
        self._untaken: deque[Untaken] = deque()
        self._handoffs = Handoffs(
            loop, worker=self._worker, passes=self._passes_on, on_late=self._give_anybody
        )
        self._paused = False
        self._retry: Timer | None = None
        self._retry_untaken: Timer | None = None
        self._exhausted = False

    def set_rules(self, rules: Rules) -> None:
        """Choose by other rules from now on."""
        if rules != self._rules:
            self._rules = rules
            self._balance = rules.balance()

    def set_handoffs(self, *, timeout_s: float) -> None:
        """Have a connection that is for one slot wait for so long for the worker there."""
        self._handoffs.timeout_s = timeout_s

    def set_slots(self, slots: int) -> None:
        """Know how many slots there are."""
        self._handoffs.slots = slots

    def watch(self, listener: socket.socket) -> None:
        """Accept from a listener, which must be non-blocking."""
        fd = listener.fileno()
        if fd not in self._listeners:
            self._listeners[fd] = listener
            if not self._paused:
                self._loop.add(fd, lambda: self._accept_some(listener))

    def unwatch(self, listener: socket.socket) -> None:
        """Leave a listener's connections in its backlog, or to somebody else."""
        fd = listener.fileno()
        if self._listeners.pop(fd, None) is not None and not self._paused:
            self._loop.remove(fd)

    def add(
        self,
        worker: WorkerChannel,
        *,
        generation: int = 0,
        slot: int = 0,
        max_connections: int = 0,
    ) -> None:
        """Give connections to a worker from now on; `max_connections`, if any, is its own limit."""
        self._seats[worker] = Seat(worker, generation, slot, max_connections)
        self._handoffs.go_on()
        self._resume()

    def remove(self, worker: WorkerChannel) -> None:
        """Give a worker nothing more. Harmless when it was never added."""
        self._seats.pop(worker, None)

    def give_back(self, untaken: Untaken) -> None:
        """Give others the connections whose worker died before it took them."""
        if untaken.next_count():
            self._untaken.append(untaken)
            self._give_returned()
        else:
            untaken.close()

    def relieve(self, worker: WorkerChannel) -> None:
        """Give others what a worker was given and cannot take. It says so again if some is left."""
        if not worker.starved_ns():
            return
        try:
            for passage in worker.take_back():
                self._return(passage)
        except OSError as error:
            self._tell_exhausted(error)
        self._give_returned()

    def hand_over(self, passage: Passage) -> None:
        """Give a connection that a worker had to another: that of the slot named, see `handoffs`.

        Else to any, of the newest generation if one there has room. When none has, it waits.
        """
        self._return(passage)
        self._give_returned()

    def _return(self, passage: Passage) -> None:
        """Put a connection where it is to wait, if it has to."""
        left: Passage | None = passage
        if passage.handoff is not None and passage.handoff.slot >= 0:
            left = self._handoffs.take(passage)
        if left is not None:
            self._returned.append(left)

    def _give_anybody(self, passages: Iterable[Passage]) -> None:
        self._returned.extend(passages)
        self._give_returned()

    def _worker(self, slot: int) -> WorkerChannel | None:
        """Return the worker of a slot, the newest one."""
        found = [seat for seat in self._seats.values() if seat.slot == slot]
        return max(found, key=lambda seat: seat.generation).channel if found else None

    def _passes_on(self, worker: WorkerChannel, passage: Passage) -> bool:
        # What is full is asked for room; what has no descriptors says when it has some.
        return not worker.starved_ns() and self._passes(worker, passage)

    def _passes(self, worker: WorkerChannel, passage: Passage) -> bool:
        try:
            worker.hand_over(passage)
        except OSError:
            return False  # Its channel is full, or closed.
        _let_go(passage)
        return True

    def room(self) -> None:
        """Go on: a worker has taken connections."""
        self._handoffs.go_on()
        if self._paused:
            self._resume()

    def accept_all(self, listener: socket.socket) -> None:
        """Empty the backlog of a listener that is about to be closed, however full workers are.

        No more than a backlog holds, so that clients that go on coming are not accepted for ever;
        and no more than the workers' channels hold: thousands of connections each, in transit at
        most as many as a process may have descriptors (ETOOMANYREFS, unix(7)).
        """
        for _ in range(BACKLOG // ACCEPTS_PER_TURN + 1):
            if not self._give_anyway():
                return
            error = self._accept_returned(listener)
            if error is not None:
                self._pause_exhausted(error)
            if not self._returned:
                return
        self._give_anyway()

    def _accept_returned(self, listener: socket.socket) -> OSError | None:
        """Accept as if the connections had come back. Return what kept others from coming."""
        for _ in range(ACCEPTS_PER_TURN):
            try:
                connection = _accept(listener)
            except OSError as error:
                return error
            if connection is None:
                return None
            self._returned.append(Passage(connection))
        return None

    def _give_anyway(self) -> bool:
        """Give what has come back to the workers with the fewest to take; False if some is left."""
        workers = [
            worker
            for worker in self._seats
            if worker.outstanding() < SENSELESS and not worker.starved_ns()
        ]
        while workers and (self._returned or self._take_back()):
            worker = fewest_outstanding(workers)
            share = min(-(-len(self._returned) // len(workers)), worker.frame_limit)
            some = [self._returned.popleft() for _ in range(share)]
            left = self._give_together(worker, some)
            if left:
                self._returned.extendleft(reversed(left))
                workers.remove(worker)  # Its channel is full, or closed.
        return bool(workers) and not self._returned

    def _give_together(self, worker: WorkerChannel, passages: list[Passage]) -> list[Passage]:
        """Give a worker connections, the new ones in one frame; return those it does not take."""
        new = [passage.fd for passage in passages if passage.handoff is None]
        try:
            if new:
                worker.give(new)
        except OSError:
            return passages
        for fd in new:
            closing.release(fd)
        others = [passage for passage in passages if passage.handoff is not None]
        while others and self._passes(worker, others[0]):
            del others[0]
        return others

    def _accept_some(self, listener: socket.socket) -> None:
        """Accept connections for a turn of the loop, as long as workers have room."""
        given: dict[Seat, list[int]] = {}
        accepted = 0
        error: OSError | None = None
        full = False
        seats = list(self._seats.values())
        while accepted < ACCEPTS_PER_TURN:
            chosen = self._balance.pick(seats)
            if chosen is None:
                full = True
                break
            try:
                connection = _accept(listener)
            except OSError as failure:
                error = failure
                break
            if connection is None:
                break
            self._balance.advance()
            accepted += 1
            chosen.chosen += 1
            given.setdefault(chosen, []).append(connection)
        for seat, connections in given.items():
            seat.chosen = 0
            self._give(seat.channel, connections)
        if error is not None:
            self._pause_exhausted(error)
        elif full:
            self._await_room()
        elif accepted and self._retry_untaken is None:
            self._exhausted = False

    def _give(self, worker: WorkerChannel, connections: list[int]) -> None:
        """Pass connections on, and close the master's own copies of them."""
        for start in range(0, len(connections), worker.frame_limit):
            some = connections[start : start + worker.frame_limit]
            try:
                worker.give(some)
            except OSError:
                # Full, or its worker is dead and will be reaped: others get them.
                self._returned.extend(Passage(fd) for fd in connections[start:])
                self._pause_full()
                return
            for fd in some:
                closing.release(fd)

    def _give_returned(self) -> None:
        while self._returned or self._untaken:
            seats = list(self._seats.values())
            seat = self._balance.pick(self.newest()) or self._balance.pick(seats)
            if seat is None:
                if self._await_room():
                    return
                continue
            if not self._returned:
                if not self._take_back():
                    return
                continue  # It may be that all of it is for others.
            self._balance.advance()  # Also past one that does not take it, or it is always asked.
            if not self._passes(seat.channel, self._returned[0]):
                self._pause_full()
                return
            self._returned.popleft()

    def newest(self) -> list[Seat]:
        """Return the workers of the newest generation, which are not to leave soon."""
        newest = max((seat.generation for seat in self._seats.values()), default=0)
        return [seat for seat in self._seats.values() if seat.generation == newest]

    def _take_back(self) -> bool:
        """Take the next connections that a dead worker has left; False when none can be had."""
        if not self._untaken:
            return False
        untaken = self._untaken[0]
        try:
            taken = untaken.take()
        except OSError as error:
            self._tell_exhausted(error)
            if self._retry_untaken is None:
                retry = self._loop.call_later(EXHAUSTED_RETRY_S, self._give_returned_again)
                self._retry_untaken = retry
            return False
        if not untaken.next_count():
            untaken.close()
            self._untaken.popleft()
        for passage in taken:
            self._return(passage)
        return True

    def _give_returned_again(self) -> None:
        self._retry_untaken = None
        self._give_returned()

    def _await_room(self) -> bool:
        """Leave connections in the backlog until a worker has room; False if one has meanwhile.

        Who took connections just before it was asked to tell does not: so it is looked at again.
        """
        self._pause_full()
        if self._balance.pick(list(self._seats.values())) is None:
            return True
        self._go_on()
        return False

    def _pause_full(self) -> None:
        """Leave connections in the backlog until a worker has room."""
        if self._paused:
            return
        self._pause()
        for worker in self._seats:
            worker.ask_for_room(True)
        if self._seats:
            # For a worker that has no time to tell, say.
            self._retry = self._loop.call_later(FULL_RETRY_S, self._resume)

    def _tell_exhausted(self, error: OSError) -> None:
        if error.errno in EXHAUSTED and not self._exhausted:
            self._exhausted = True
            self._on_exhausted(error)

    def _pause_exhausted(self, error: OSError) -> None:
        self._tell_exhausted(error)
        if not self._paused:
            self._pause()
            self._retry = self._loop.call_later(EXHAUSTED_RETRY_S, self._resume)

    def _pause(self) -> None:
        self._paused = True
        for fd in self._listeners:
            self._loop.remove(fd)

    def _resume(self) -> None:
        self._go_on()
        self._give_returned()

    def _go_on(self) -> None:
        """Accept again."""
        if self._paused:
            self._paused = False
            if self._retry is not None:
                self._retry.cancel()
                self._retry = None
            for worker in self._seats:
                worker.ask_for_room(False)
            for fd, listener in self._listeners.items():
                self._loop.add(fd, lambda listener=listener: self._accept_some(listener))  # type: ignore[misc]

    def left(self) -> list[Passage]:
        """Return the connections that nobody took, which belong to the caller."""
        while self._take_back():
            pass
        return [*self._returned.take_all(), *self._handoffs.left()]

    def close(self) -> None:
        """Stop accepting for good; connections that nobody took are closed."""
        for listener in list(self._listeners.values()):
            self.unwatch(listener)
        self._handoffs.close()
        while self._returned:
            _let_go(self._returned.popleft())
        while self._untaken:
            self._untaken.popleft().close()


def _let_go(passage: Passage) -> None:
    """Close the master's copy of a connection."""
    if passage.handoff is None:
        closing.release(passage.fd)
    else:
        closing.close([passage.fd])  # A worker has had it.


def _accept(listener: socket.socket) -> int | None:
    """Return the next connection; None when there is none. Raises OSError."""
    while True:
        try:
            connection, _ = listener.accept()
        except (BlockingIOError, InterruptedError):
            return None
        except ConnectionAbortedError:
            continue  # The client went away while it was queued: accept(2).
        return connection.detach()
