"""Tells the course of things: to the journal, to systemd, and to those who wait for a reload."""

from typing import Protocol

from sdcluster.core import actions as act
from sdcluster.core.states import EXPECTED, Generation, ReloadCause, Slot, place
from sdcluster.errors import SdclusterError, reason_of
from sdcluster.master.connections.recovery import Summary
from sdcluster.master.host.journal import About, EventKind, Journal
from sdcluster.master.host.systemd import ServiceManager
from sdcluster.master.processes.workers import WorkerProcess


class Observer(Protocol):
    """Who waits for reloads: those that have called over the control socket."""

    def began(self, action: act.BeginReload) -> None:
        """Learn that a reload began."""

    def progressed(self, action: act.ReportProgress) -> None:
        """Learn that a slot serves the new generation."""

    def rolls_back(self, action: act.BeginRollback) -> None:
        """Learn that the new generation failed."""

    def ended(self, action: act.EndReload) -> None:
        """Learn that a reload is over."""

    def stops(self) -> None:
        """Learn that the cluster stops."""


class Chronicle:
    """Says each thing once, to everyone whom it concerns."""

    def __init__(self, journal: Journal, manager: ServiceManager) -> None:
        self.observer: Observer | None = None
        self._journal = journal
        self._manager = manager
        self._announced = False
        self.last_failure = ""
        """Why the try before this one failed, while the cluster has not served."""

    @property
    def has_been_ready(self) -> bool:
        """Whether the cluster has served at all."""
        return self._announced

    def starts(self, workers: int, addresses: list[str]) -> None:
        """Tell that the cluster begins."""
        text = f"starting {workers} workers on {', '.join(addresses)}"
        self._journal.write(EventKind.STARTING, text)

    def is_ready(self, status_line: str, generation: Generation) -> None:
        """Tell that the cluster serves for the first time."""
        self._announced, self.last_failure = True, ""
        self._manager.ready()
        self._manager.alive()
        self._manager.status(status_line)
        self._journal.write(EventKind.READY, f"ready: {status_line}", About(generation=generation))

    def stops(self, *, for_good: bool = True) -> None:
        """Tell that the workers drain; `for_good` unless the start is to be tried again."""
        if for_good:
            self._manager.stopping()
        self._manager.extend_timeout()
        if self._announced:
            self._journal.write(EventKind.STOPPING, "stopping: the workers drain")
        if self.observer:
            self.observer.stops()

    def could_not_start(self, reason: str) -> None:
        """Tell why there is no cluster."""
        self._journal.write(EventKind.START_FAILED, f"cannot start: {reason}")
        self._manager.status(f"cannot start: {reason}")

    def start_is_refused(self, error: SdclusterError) -> None:
        """Tell systemd why nothing was begun; the error itself is for whoever gets it."""
        self._manager.status(str(error))
        if isinstance(error.__cause__, OSError) and error.__cause__.errno:
            self._manager.failed(error.__cause__.errno)

    def start_waits(self, reason: str, wait_s: float) -> None:
        """Tell why there is no cluster yet, and when it is tried again."""
        self.last_failure = reason
        text = f"cannot start: {reason}; the next try is in {wait_s:.1f} s"
        self._journal.write(EventKind.START_WAITS, text)

    def waits(self, status_line: str) -> None:
        """Tell systemd, regularly, that the start goes on although nothing is under way."""
        self._manager.alive()
        self._manager.extend_timeout()
        self._manager.status(status_line)

    def connections_are_left(self, count: int) -> None:
        """Tell how many connections wait for the next master."""
        if count:
            text = f"{count} connections are left to the next start, in systemd's store"
            self._journal.write(EventKind.STOPPING, text)

    def has_stopped(self) -> None:
        """Tell that all is over."""
        self._journal.write(EventKind.STOPPED, "stopped")

    def ticks(self, status_line: str, *, progress: bool) -> None:
        """Tell systemd, regularly, that the master lives and how things are."""
        self._manager.alive()
        if progress:
            self._manager.extend_timeout()
        self._manager.status(status_line)

    @property
    def watchdog_interval_s(self) -> float:
        """How often `ticks` is due at least, in seconds; 0 when nobody watches."""
        return self._manager.watchdog_interval_s

    # Workers.

    def worker_serves(self, process: WorkerProcess) -> None:
        """Tell that a worker gets connections."""
        self._journal.write(
            EventKind.WORKER_READY,
            f"worker {process.id} (pid {process.pid}, {place(Slot(process.slot))}, "
            f"gen {process.generation}) serves",
            process.about(),
        )

    def worker_retires(self, process: WorkerProcess, reason: str) -> None:
        """Tell that a worker drains."""
        self._journal.write(
            EventKind.WORKER_RETIRED,
            f"worker {process.id} (pid {process.pid}) is retired: {reason}",
            process.about(),
        )

    def worker_is_struck(self, process: WorkerProcess, number: str, reason: str) -> None:
        """Tell that a worker gets the signal `number`."""
        self._journal.write(
            EventKind.WORKER_STUCK,
            f"worker {process.id} (pid {process.pid}) {reason}: {number}",
            process.about(),
        )

    def worker_is_gone(self, action: act.RecordExit) -> None:
        """Tell why a worker is no more."""
        expected = action.reason in EXPECTED
        text = f"worker {action.worker} ({place(action.slot)}) is gone ({action.reason.value})"
        if not expected:
            text += f": {action.status}"
            if action.respawn_in_s:
                text += f"; the next one starts in {action.respawn_in_s:.1f} s"
        self._journal.write(
            EventKind.WORKER_RETIRED if expected else EventKind.WORKER_LOST,
            text,
            About(action.slot, action.worker, action.generation),
        )

    def connections_are_kept(self, process: WorkerProcess, summary: Summary) -> None:
        """Tell what became of the connections of a dead worker, if it had any."""
        if summary:
            text = (
                f"of the connections of worker {process.id}, which is dead, {summary.idle} go on, "
                f"{summary.again} go on with their request sent again, {summary.closed} are closed"
            )
            if summary.lost:
                text += f"; {summary.lost} have ended with it, not given away by its keeper"
            self._journal.write(EventKind.CONNECTIONS_KEPT, text, process.about())

    def messages_are_dropped(self, worker: int) -> None:
        """Tell that a process reads none of what others send it."""
        self._journal.write(
            EventKind.MESSAGES_DROPPED,
            f"worker {worker} does not read its messages: some are dropped",
            About(worker=worker),
        )

    def cannot_accept(self, error: OSError) -> None:
        """Tell that a limit keeps connections in the backlog."""
        self._journal.write(
            EventKind.ACCEPT_PAUSED,
            f"cannot accept: {reason_of(error)}; connections wait in the backlog",
        )

    # Reloads.

    def reload_begins(self, action: act.BeginReload) -> None:
        """Tell that a new generation is loaded."""
        self._manager.reloading()
        self._manager.extend_timeout()
        why = "" if action.cause is ReloadCause.REQUEST else " (the mold died)"
        text = f"reload to generation {action.generation} begins{why}"
        self._journal.write(EventKind.RELOAD_BEGUN, text, About(generation=action.generation))
        if self.observer:
            self.observer.began(action)

    def reload_progresses(self, action: act.ReportProgress) -> None:
        """Tell that one more slot is replaced."""
        if self.observer:
            self.observer.progressed(action)

    def reload_rolls_back(self, action: act.BeginRollback) -> None:
        """Tell that the new generation failed."""
        text = f"generation {action.generation} failed, its workers go back: {action.reason}"
        self._journal.write(EventKind.ROLLBACK, text, About(generation=action.generation))
        if self.observer:
            self.observer.rolls_back(action)

    def reload_ends(
        self, action: act.EndReload, status_line: str, *, serving: Generation, running: bool
    ) -> None:
        """Tell that the generation `serving` serves now."""
        about = About(generation=action.generation)
        if action.failure:
            if serving == action.generation:
                text = f"generation {serving} serves, as there is no way back"
            else:
                text = "the old code serves on" if running else "the cluster stops"
            text = f"reload failed, {text}: {action.failure}"
            self._journal.write(EventKind.RELOAD_FAILED, text, about)
        else:
            text = f"reload done, generation {action.generation} serves"
            self._journal.write(EventKind.RELOAD_DONE, text, about)
        if running:
            self._manager.ready()  # Also after a failure, or the unit hangs in reloading.
        self._manager.status(status_line)
        if self.observer:
            self.observer.ended(action)
