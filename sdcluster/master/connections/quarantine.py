"""The workers of the quarantine, and the connections whose requests are served there.

What is served there, and when, is decided by `core.quarantine`.
"""

from collections.abc import Callable, Iterable
from dataclasses import replace

from sdcluster.core.quarantine import Trials
from sdcluster.master.connections.channels import Passage, Untaken, WorkerChannel
from sdcluster.master.host import closing
from sdcluster.system import descriptors
from sdcluster.system.event_loop import EventLoop
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
        self._trials: Trials[WorkerChannel, Passage] = Trials()
        self._workers: list[WorkerChannel] = []
        self._untaken: list[Untaken] = []
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

    def died(self, worker: WorkerChannel, untaken: Untaken) -> None:
        """Draw the conclusions of the end of a worker, and try again what it had not taken.

        Who is needed is told later: before the supervisor knows of the end, the worker would seem
        to leave by choice.
        """
        self.remove(worker)
        if self._trials.is_busy(worker):
            if worker.outstanding():
                self._trials.abandon(worker)
            elif worker.connections():
                self._trials.died(worker, self._loop.time())
            else:
                self._survived(worker)
        self._untaken.append(untaken)
        self._try_untaken()
        self._tell_signatures()

    def relieve(self, worker: WorkerChannel) -> bool:
        """Try again what a worker without descriptors was given; False when it is none of these.

        Raises OSError when there are too few descriptors here as well.
        """
        if worker not in self._workers:
            return False
        self._trials.abandon(worker)
        self._enqueue(worker.take_back())
        return True

    def blame(self, signature: int) -> None:
        """Have requests of a signature come here: a worker died with one, which is not tried."""
        self._trials.blame(signature, self._loop.time())
        self._go_on()

    def takes(self, passage: Passage) -> bool:
        """Take a connection whose request is to be served here; False when it is not."""
        handoff = passage.handoff
        if handoff is None or handoff.refusal or self._is_closed:
            return False
        is_listed = handoff.slot == channel.QUARANTINE
        if not is_listed and not (handoff.crashes and handoff.unanswered):
            return False
        if is_listed:
            passage = replace(passage, handoff=replace(handoff, slot=channel.ANY))
        self._enqueue([passage])
        self._go_on()
        return True

    def _enqueue(self, passages: Iterable[Passage]) -> None:
        """Have connections wait: of suspects, or of listed signatures. Any worker gets others."""
        now = self._loop.time()
        for passage in passages:
            handoff = passage.handoff
            if handoff is None or self._is_closed:
                self._pass_on(passage)
            elif handoff.crashes and handoff.unanswered:
                tells = is_repeatable(handoff.signature)
                self._trials.enqueue_suspect(passage, handoff.signature, now, tells=tells)
            elif not self._trials.is_listed(handoff.signature):
                self._pass_on(passage)
            elif not self._trials.enqueue_listed(passage, handoff.signature, now):
                self._refuse(passage)

    def _refuse(self, passage: Passage) -> None:
        assert passage.handoff is not None
        self._pass_on(replace(passage, handoff=replace(passage.handoff, refusal=BUSY)))

    def _try_untaken(self) -> None:
        """Try again what dead workers had not taken, as far as there are descriptors for it."""
        while self._untaken:
            untaken = self._untaken[0]
            try:
                while untaken.next_count():
                    self._enqueue(untaken.take())
            except OSError:
                return  # Until the next look.
            untaken.close()
            self._untaken.pop(0)

    def look(self) -> None:
        """Let those have their turn that have waited for a worker, or for time to pass."""
        self._try_untaken()
        freed, refused = self._trials.look(self._loop.time())
        self._free(freed)
        for passage in refused:
            self._refuse(passage)
        self._go_on()

    def renew(self) -> None:
        """Forget all signatures: other code serves, and signs otherwise."""
        self._free(self._trials.clear())
        self._go_on()

    def room(self) -> None:
        """Go on: a worker may be done with its request."""
        if self._trials.is_active:
            self._go_on()

    def _go_on(self) -> None:
        for worker in list(self._workers):
            worker.ask_for_room(True)  # First: who is done from now on says so.
            if self._trials.is_busy(worker):
                if worker.outstanding() or worker.connections():
                    continue
                self._survived(worker)
            if not worker.starved_ns():
                self._give(worker)
        self._tell()

    def _survived(self, worker: WorkerChannel) -> None:
        self._free(self._trials.survived(worker))

    def _free(self, passages: list[Passage]) -> None:
        """Give any worker what need not wait, when they know: else they would send it back."""
        self._tell_signatures()
        for passage in passages:
            self._pass_on(passage)

    def _give(self, worker: WorkerChannel) -> None:
        """Give a worker the next connection whose client is still there."""
        while (passage := self._trials.take(worker, self._loop.time())) is not None:
            if not descriptors.has_peer(passage.fd):
                closing.close([passage.fd])
                self._trials.abandon(worker)
                continue
            try:
                worker.hand_over(passage)
            except OSError:  # Too much is on its way at the moment, say.
                self._trials.put_back(worker)
            else:
                closing.close([passage.fd])
            return

    def _tell(self) -> None:
        self._tell_signatures()
        wanted = self._trials.workers_wanted(self._loop.time())
        if wanted != self._wanted and not self._is_closed:
            self._wanted = wanted
            self._on_workers(wanted)

    def _tell_signatures(self) -> None:
        signatures = self._trials.signatures
        if signatures != self._signatures:
            self._signatures = signatures
            self._on_signatures(signatures)

    def stop(self) -> None:
        """Serve no more here: what waits goes to any worker that is left."""
        self._is_closed = True
        self._free(self._trials.give_up())

    def close(self) -> None:
        """Let go of what was never taken."""
        for untaken in self._untaken:
            untaken.close()
        self._untaken.clear()
