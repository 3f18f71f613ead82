"""The workers of the quarantine, and the connections whose requests are served there.

What is served there, and when, is decided by `core.quarantine`.
"""

from collections.abc import Callable
from dataclasses import replace

from sdcluster import descriptors
from sdcluster.core.quarantine import Quarantine as Decisions
from sdcluster.loops import EventLoop
from sdcluster.master import closing
from sdcluster.master.channels import Passage, WorkerChannel
from sdcluster.wire import channel
from sdcluster.wire.signature import is_repeatable

BUSY = 503
"""The status that a request is refused with while too many others wait."""


class Quarantine:
    """Gives each of its workers one connection at a time, and lets no other worker have it."""

    def __init__(
        self,
        loop: EventLoop,
        *,
        pass_on: Callable[[Passage], None],
        on_signatures: Callable[[tuple[int, ...]], None],
        on_workers: Callable[[int], None],
    ) -> None:
        """`pass_on` gives a connection to any other worker.

        `on_signatures` is told the signatures whose requests come here, `on_workers` how many
        workers are needed here; both when that has changed.
        """
        self._loop = loop
        self._pass_on = pass_on
        self._on_signatures = on_signatures
        self._on_workers = on_workers
        self._decisions: Decisions[WorkerChannel, Passage] = Decisions()
        self._workers: list[WorkerChannel] = []
        self._signatures: tuple[int, ...] = ()
        self._wanted = 0
        self._is_closed = False

    def add(self, worker: WorkerChannel) -> None:
        """Take a worker on."""
        self._workers.append(worker)
        self._go_on()

    def remove(self, worker: WorkerChannel) -> None:
        """Give a worker nothing more. Harmless when it is none of these."""
        if worker in self._workers:
            self._workers.remove(worker)
            # Who is needed is not told before its end is: the worker would leave by choice.
            self._decisions.left(worker)

    def blame(self, signature: int) -> None:
        """Have requests of a signature come here: a worker died with one, which is not tried."""
        self._decisions.blame(signature, self._loop.time())
        self._go_on()

    def takes(self, passage: Passage) -> bool:
        """Take a connection whose request is to be served here; False when it is not."""
        handoff = passage.handoff
        if handoff is None or handoff.refusal or self._is_closed:
            return False
        now = self._loop.time()
        if handoff.slot == channel.QUARANTINE:
            passage = replace(passage, handoff=replace(handoff, slot=channel.ANY))
            signature = handoff.signature
            if not self._decisions.is_listed(signature):
                self._pass_on(passage)
            elif not self._decisions.listed(passage, signature, now):
                self._pass_on(_refused(passage, BUSY))
        elif handoff.crashes and handoff.unanswered:
            tells = is_repeatable(handoff.signature)
            self._decisions.suspect(passage, handoff.signature, now, tells=tells)
        else:
            return False
        self._go_on()
        return True

    def look(self) -> None:
        """Let those have their turn that have waited for a worker, or for time to pass."""
        for passage in self._decisions.look(self._loop.time()):
            self._pass_on(passage)
        self._go_on()

    def room(self) -> None:
        """Go on: a worker may have answered its request."""
        if self._decisions.is_active:
            self._go_on()

    def _go_on(self) -> None:
        for worker in list(self._workers):
            worker.ask_for_room(True)  # First: who is done from now on says so.
            if not self._decisions.is_busy(worker) or self._is_done(worker):
                self._give(worker)
        self._tell()

    def _is_done(self, worker: WorkerChannel) -> bool:
        if worker.outstanding() or worker.connections():
            return False
        freed = self._decisions.survived(worker)
        if freed:
            self._tell()  # First: else another worker would send them back.
        for passage in freed:
            self._pass_on(passage)
        return True

    def _give(self, worker: WorkerChannel) -> None:
        """Give a worker the next connection whose client is still there."""
        now = self._loop.time()
        while (passage := self._decisions.take(worker, now)) is not None:
            if not descriptors.has_peer(passage.fd):
                closing.close([passage.fd])
                self._decisions.left(worker)
                continue
            try:
                worker.hand_over(passage)
            except OSError:  # It is dead, which is about to be seen.
                self._decisions.put_back(worker, passage, now)
                self._workers.remove(worker)
            else:
                closing.close([passage.fd])
            return

    def _tell(self) -> None:
        signatures = self._decisions.signatures
        if signatures != self._signatures:
            self._signatures = signatures
            self._on_signatures(signatures)
        wanted = self._decisions.workers_wanted(self._loop.time())
        if wanted != self._wanted and not self._is_closed:
            self._wanted = wanted
            self._on_workers(wanted)

    def stop(self) -> None:
        """Serve no more here: what waits goes to any worker that is left."""
        self._is_closed = True
        for passage in self._decisions.give_up():
            self._pass_on(passage)


def _refused(passage: Passage, status: int) -> Passage:
    """Return a connection whose request no app is to see."""
    assert passage.handoff is not None
    return replace(passage, handoff=replace(passage.handoff, refusal=status))
