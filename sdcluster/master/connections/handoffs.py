"""Connections that are for the worker of one slot: each waits until that one has room for it.

A channel that is full never makes it another's. When the time is up, whoever has room gets it: to
refuse it, or, when the slot has no worker, to serve it in that one's place.
"""

import resource
from collections.abc import Callable, Iterable
from dataclasses import replace

from sdcluster.core.queues import Limits, Queues
from sdcluster.master.connections.channels import Passage, WorkerChannel
from sdcluster.master.connections.passages import Memory
from sdcluster.master.host import closing
from sdcluster.system.event_loop import EventLoop, Timer
from sdcluster.wire.channel import ANY, Handoff, Terms

RETRY_S = 0.005
"""How long to wait for a worker to say that it has room before trying again."""
MAX_SLOT_BYTES = 8 * 1024 * 1024
"""Of requests that wait for one worker."""
MAX_BYTES = 64 * 1024 * 1024
"""Of requests that wait for any of them."""
MAX_COUNT = 16384


class Handoffs:
    """Hands connections over to the workers of their slots.

    `worker` returns the worker of a slot, if there is one; `passes` gives it a connection, and
    tells whether it has taken it. `on_late` gets what anybody is to get.
    """

    def __init__(
        self,
        loop: EventLoop,
        *,
        worker: Callable[[int], WorkerChannel | None],
        passes: Callable[[WorkerChannel, Passage], bool],
        on_late: Callable[[Iterable[Passage]], None],
    ) -> None:
        self.timeout_s = 1.0
        """How long a connection may wait."""
        self.slots = 0
        """How many slots there are; 0 when that is not known."""
        self._loop = loop
        self._worker = worker
        self._passes = passes
        self._on_late = on_late
        self._queues: Queues[Passage] = Queues(_limits())
        self._memory = Memory()
        self._timer: Timer | None = None

    def take(self, passage: Passage) -> Passage | None:
        """Give a connection to the worker of the slot that it names, now or later.

        Return what anybody is to get instead, if that is to be.
        """
        assert passage.handoff is not None
        slot = passage.handoff.slot
        if self.slots and slot >= self.slots:
            return _for_anybody(passage, Terms.PASS_ON)  # It is gone for good: look anew.
        if self._queues.first(slot) is None:
            worker = self._worker(slot)
            if worker is not None and self._passes(worker, passage):
                return None
        if not passage.handoff.unanswered:
            return _for_anybody(passage, Terms.PASS_ON)  # There is no request that is for a slot.
        deadline = self._loop.time() + self.timeout_s
        size = len(passage.handoff.unanswered)
        if not self.timeout_s or not self._queues.add(slot, passage, size, deadline=deadline):
            return self._late(slot, passage)
        self._memory.take(passage)
        self._wait()
        return None

    def _late(self, slot: int, passage: Passage) -> Passage:
        has_worker = self._worker(slot) is not None
        return _for_anybody(passage, Terms.REFUSE if has_worker else Terms.STAND_IN)

    def go_on(self) -> None:
        """Give what waits to those that have room."""
        if self._queues:
            if self._timer is not None:
                self._timer.cancel()
            self._turn()

    def _turn(self) -> None:
        self._timer = None
        for slot in self._queues.slots():
            worker = self._worker(slot)
            while worker is not None and (passage := self._queues.first(slot)) is not None:
                if not self._passes(worker, passage):
                    break
                self._memory.give(self._queues.pop(slot))
        overdue = self._queues.overdue(self._loop.time())
        for _, passage in overdue:
            self._memory.give(passage)
        if overdue:
            self._on_late([self._late(slot, passage) for slot, passage in overdue])
        self._wait()

    def _wait(self) -> None:
        """Go on when a worker has room, or the time is up."""
        deadline = self._queues.deadline()
        if deadline is None or self._timer is not None:
            return
        is_full = False
        for slot in self._queues.slots():
            worker = self._worker(slot)
            if worker is not None:
                is_full = True
                worker.ask_for_room(True)
        delay_s = max(0.001, deadline - self._loop.time())
        self._timer = self._loop.call_later(
            min(RETRY_S, delay_s) if is_full else delay_s, self._turn
        )

    def left(self) -> list[Passage]:
        """Return what waits, for anybody to get: it belongs to the caller."""
        left = []
        for slot in self._queues.slots():
            while self._queues.first(slot) is not None:
                passage = self._queues.pop(slot)
                self._memory.give(passage)
                left.append(_for_anybody(passage, Terms.PASS_ON))
        return left

    def close(self) -> None:
        """Close what waits."""
        closing.close([passage.fd for passage in self.left()])  # A worker has had each.


def _limits() -> Limits:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    count = min(soft // 2, MAX_COUNT) if soft > 0 else MAX_COUNT
    return Limits(slot_bytes=MAX_SLOT_BYTES, bytes=MAX_BYTES, count=count)


def _for_anybody(passage: Passage, terms: Terms) -> Passage:
    handoff = passage.handoff or Handoff()
    if terms is Terms.REFUSE:
        # Nobody reads more of it again than its method, on which the response depends.
        method = handoff.unanswered.lstrip(b"\r\n")[: len(b"HEAD ")]
        handoff = replace(handoff, unanswered=method)
    return replace(passage, handoff=replace(handoff, slot=ANY, terms=terms))
