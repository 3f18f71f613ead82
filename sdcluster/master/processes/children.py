"""The master's children: the molds, and the workers that they fork.

Starts them, hears what they say, and reaps them. Each finding becomes an event for the supervisor;
nothing is decided here.
"""

import os
import random
import signal
import socket
from collections import deque
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from types import MappingProxyType

from sdcluster.config.model import Config
from sdcluster.core import events as ev
from sdcluster.core.states import AGENT, Generation, Slot, WorkerId
from sdcluster.errors import ProtocolError, SpawnError, reason_of
from sdcluster.master.connections.channels import Kept, Passage, Untaken, WorkerChannel
from sdcluster.master.connections.recovery import Summary, is_ours
from sdcluster.master.host import closing
from sdcluster.master.host.journal import About, EventKind, Journal
from sdcluster.master.processes import health
from sdcluster.master.processes.keepers import Keepers
from sdcluster.master.processes.molds import Mold
from sdcluster.master.processes.readiness import NotifySocket
from sdcluster.master.processes.workers import WorkerProcess, exit_text, is_child, parent_of
from sdcluster.system.descriptors import EXHAUSTED_RETRY_S
from sdcluster.system.event_loop import EventLoop
from sdcluster.system.runtime import directory
from sdcluster.wire import frames
from sdcluster.wire.notify import Notification

FRAMES_PER_TURN = 32
MAX_LAST_FRAMES = 1024
"""The last words of a worker that is dead: more than a channel holds."""
MAX_EARLY_EXITS = 64
STACKS_TIMEOUT_S = 0.3
"""How long a worker that is aborted may write its stacks before the next one is aborted."""
MOLD_LEAVE_TIMEOUT_S = 3.0
"""How long a mold that is told to go may take before it is killed."""


class Children:
    """All processes that this master has started, from the order to the end."""

    def __init__(
        self,
        *,
        loop: EventLoop,
        journal: Journal,
        report: Callable[[ev.Event], None],
        on_room: Callable[[], None],
        on_starved: Callable[[WorkerProcess], None],
        on_gone: Callable[[WorkerProcess, Untaken], None],
        on_passage: Callable[[Passage], None],
        on_blame: Callable[[int], None],
        on_recovered: Callable[[WorkerProcess, Summary], None],
        is_ours: Callable[[socket.socket], bool],
        spare_others: bool = False,
    ) -> None:
        """`report` is told each event. `on_room` is told that a worker has taken connections.

        `on_starved` is told that one has no descriptors for those it was given.

        With `spare_others` only processes that were started here are reaped: in a program of the
        user's, the others are the business of that program.

        `on_gone` is told that a worker is dead, and owns what that had not taken. `on_passage` owns
        a connection that a worker hands over, or that one had that has died; `is_ours` tells
        whether such a one came to a listener of ours, and `on_recovered` how it went. `on_blame` is
        told the signature of a request that may have been why, see `Recovery`.
        """
        self.workers: dict[int, WorkerProcess] = {}
        self._loop = loop
        self._journal = journal
        self._report = report
        self._on_room = on_room
        self._on_starved = on_starved
        self._on_gone = on_gone
        self._on_passage = on_passage
        self._is_ours = is_ours
        self._spare_others = spare_others
        self._molds: dict[int, Mold] = {}
        self._leaving: dict[int, Mold] = {}
        self._early_exits: dict[int, int] = {}
        self._to_abort: deque[WorkerProcess] = deque()
        self._sessions: set[int] = set()
        self._keepers = Keepers(
            loop,
            is_ours=is_ours,
            is_no_keeper=self._is_known,
            on_passage=on_passage,
            on_blame=on_blame,
            on_recovered=on_recovered,
        )
        self._slots = 0
        self._signatures: Sequence[int] = ()

    # Molds.

    def start_mold(
        self, config: Config, generation: Generation, *, listener_names: Sequence[str]
    ) -> None:
        """Start the mold of a generation. Raises `SpawnError`."""
        mold = Mold(config, generation, listener_names=listener_names)
        self._molds[generation] = mold
        self._sessions.add(mold.pid)
        self._loop.add(mold.fileno(), lambda: self._read_mold(mold))

    def mold_config(self, generation: Generation) -> Config | None:
        """Return the config that a generation was started with; None when its mold is gone."""
        mold = self._molds.get(generation)
        return mold.config if mold is not None else None

    def stop_mold(self, generation: Generation) -> None:
        """Let a mold go. Harmless when it is gone."""
        mold = self._molds.pop(generation, None)
        if mold is None:
            return
        self._leaving[generation] = mold
        mold.retire()

        def insist() -> None:
            if self._leaving.get(generation) is mold:
                mold.kill(signal.SIGKILL)

        self._loop.call_later(MOLD_LEAVE_TIMEOUT_S, insist)

    def signal_mold(self, generation: Generation, number: signal.Signals) -> None:
        """Send a mold a signal. Harmless when it is gone."""
        mold = self._molds.get(generation)
        if mold is not None:
            mold.kill(number)

    def _read_mold(self, mold: Mold) -> None:
        for _ in range(FRAMES_PER_TURN):
            try:
                report = mold.read()
            except ProtocolError as error:
                self._mold_offended(mold, str(error))
                return
            except EOFError:
                self._loop.remove(mold.fileno())  # SIGCHLD follows.
                return
            if report is None:
                return
            self._take_report(mold, report)

    def _mold_offended(self, mold: Mold, text: str) -> None:
        """End a mold that broke the protocol; its generation has failed, for this reason."""
        self._journal.write(
            EventKind.WORKER_PROTOCOL,
            f"the mold broke the protocol, and is killed: {text}",
            About(generation=mold.generation),
        )
        mold.kill(signal.SIGKILL)
        self._loop.remove(mold.fileno())
        reason = f"the mold broke the protocol: {text}"
        if not mold.prepared and mold.generation > 1:
            reason += f"; maybe {frames.UPGRADED}"
        self._report(ev.MoldFailed(Generation(mold.generation), reason))

    def _take_report(self, mold: Mold, report: frames.Report) -> None:
        generation = Generation(mold.generation)
        match report:
            case frames.Prepared():
                self._report(ev.MoldReady(generation))
            case frames.PrepareFailed(reason=reason, detail=detail):
                self._journal.write(
                    EventKind.MOLD_LOST,
                    f"the app of generation {generation} does not load: {reason}",
                    About(generation=generation),
                    detail=detail,
                )
                self._report(ev.MoldFailed(generation, reason))
            case frames.Forked(worker=worker, pid=pid):
                self._forked(worker, pid)
                self._order_next(mold)
            case frames.ForkFailed(worker=worker, reason=reason):
                self._never_forked(worker, reason)
                self._order_next(mold)

    def _order_next(self, mold: Mold) -> None:
        for failed in mold.send_queued():
            self._never_forked(failed.worker, failed.reason)

    def _mold_gone(self, mold: Mold, status: str) -> None:
        mold.exited = True
        self._read_mold(mold)
        expected = self._leaving.pop(mold.generation, None) is not None
        self._molds.pop(mold.generation, None)
        self._loop.remove(mold.fileno())
        pending = mold.pending
        mold.close()
        if not expected:
            self._journal.write(
                EventKind.MOLD_LOST,
                f"the mold of generation {mold.generation} (pid {mold.pid}) is gone: {status}",
                About(generation=mold.generation),
            )
            # First: or the supervisor would have the dead mold fork what it did not fork.
            self._report(ev.MoldExited(Generation(mold.generation), status))
        for worker in pending:
            self._never_forked(worker, "the mold died before it forked")

    # Workers.

    def spawn(
        self,
        worker: WorkerId,
        slot: Slot,
        generation: Generation,
        *,
        listeners: Sequence[int],
        environment: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        """Have the generation's mold fork a worker that gets the descriptors `listeners`.

        Raises `SpawnError` when there is no room for one.
        """
        mold = self._molds[generation]
        notify_socket: NotifySocket | None = None
        channel: WorkerChannel | None = None
        watchdog_s = 0.0
        try:
            channel = WorkerChannel()
            if mold.config.is_command:
                notify_socket = NotifySocket(directory(mold.config.name), worker)
                watchdog_s = mold.config.heartbeat_timeout_s
            order = frames.Fork(
                worker=worker,
                slot=slot,
                agent=slot == AGENT,
                notify_socket=notify_socket.path if notify_socket else "",
                watchdog_usec=int(watchdog_s * 1e6),
                environment=tuple(f"{name}={value}" for name, value in environment.items()),
            )
            mold.fork(order, [*channel.descriptors(), *listeners])
        except OSError as error:
            if channel is not None:
                channel.close()
            if notify_socket is not None:
                notify_socket.close()
            raise SpawnError(f"cannot start a process: {reason_of(error)}") from error
        channel.given()
        channel.tell_slots(self._slots)
        channel.tell_signatures(self._signatures)
        process = WorkerProcess(
            worker,
            slot,
            generation,
            mold,
            channel,
            health.limits(mold.config, jitter=random.random()),
            notify_socket,
        )
        self.workers[worker] = process

    def tell_slots(self, slots: int) -> None:
        """Have the workers know how many slots there are."""
        if slots != self._slots:
            self._slots = slots
            for process in self.workers.values():
                process.channel.tell_slots(slots)

    def tell_signatures(self, signatures: Sequence[int]) -> None:
        """Have the workers know whose requests are served in the quarantine."""
        self._signatures = signatures
        for process in self.workers.values():
            process.channel.tell_signatures(signatures)

    def strike(self, process: WorkerProcess, number: signal.Signals) -> None:
        """Send a worker a signal that is meant to end it."""
        if not process.pid and number is signal.SIGKILL:
            process.mold.kill(number)  # The mold has not forked in all that time: it is stuck.
        elif number is signal.SIGABRT:
            self._to_abort.append(process)
            if len(self._to_abort) == 1:
                self._abort_next()
        else:
            process.kill(number)

    def _abort_next(self) -> None:
        """Abort the next worker: one at a time, as each writes its stacks to the same stderr."""
        if self._to_abort:
            process = self._to_abort[0]
            process.kill(signal.SIGABRT)
            self._loop.call_later(STACKS_TIMEOUT_S, lambda: self._was_aborted(process))

    def _was_aborted(self, process: WorkerProcess) -> None:
        """A worker has written its stacks, or will not, or is gone."""
        if process in self._to_abort:
            was_its_turn = self._to_abort[0] is process
            self._to_abort.remove(process)
            if was_its_turn:
                self._abort_next()

    def _forked(self, worker: int, pid: int) -> None:
        early_exit = self._early_exits.pop(pid, None)
        if not self._awaits_report():
            self._early_exits.clear()  # A later worker may get the pid of one that is gone.
        process = self.workers.get(worker)
        if process is None:
            return
        if early_exit is not None:
            process.pid = pid
            self._exited(process, early_exit)
        elif not self._is_new(pid):
            self._never_forked(worker, f"pid {pid} is no new child of the master")
        else:
            process.started(pid)
            # Not heard before: whatever it says is said by a process that we know.
            for source in process.sources():
                self._loop.add(source.fileno(), lambda: self._read_worker(process))
            if self._spare_others:
                self._loop.call_later(0, self.reap)  # It may have exited before its pid was known.

    def _is_new(self, pid: int) -> bool:
        """Tell whether a pid may be a new worker: a child that is no worker yet, and no mold."""
        return is_child(pid) and not self._is_known(pid)

    def _is_known(self, pid: int) -> bool:
        molds = [*self._molds.values(), *self._leaving.values()]
        return pid in [*(one.pid for one in molds), *(one.pid for one in self.workers.values())]

    def _never_forked(self, worker: int, reason: str) -> None:
        process = self.workers.pop(worker, None)
        if process is not None:
            self._release(process)
            self._report(ev.ForkFailed(WorkerId(worker), reason))
            self._was_aborted(process)

    def _read_worker(self, process: WorkerProcess, *, most: int = FRAMES_PER_TURN) -> None:
        for source in process.sources():
            for _ in range(most):
                if process.id not in self.workers:
                    return
                try:
                    said = source.read()
                except ProtocolError as error:
                    self._offended(process, str(error))
                    continue
                except OSError:
                    self._pause_reading(process, source)
                    break
                if said is None:
                    break
                if isinstance(said, Passage):
                    self._passed(process, said)
                elif isinstance(said, Kept):
                    self._kept(process, said)
                else:
                    self._notified(process, said)

    def _passed(self, process: WorkerProcess, passage: Passage) -> None:
        """Take a connection that a worker hands over, if it can have had that."""
        if not process.gets_connections or not process.ready_at:
            reason = "a connection, and was given none"
        elif not is_ours(passage, self._is_ours):
            reason = "a connection that has come to none of the listeners"
        else:
            self._on_passage(passage)
            return
        closing.close([passage.fd])
        self._offended(process, f"it hands over {reason}")

    def _kept(self, process: WorkerProcess, kept: Kept) -> None:
        """Take what the keeper of a worker sends, which is dead then."""
        recovery = self._keepers.recovery(process) if process.is_dead() else None
        if recovery is not None:
            recovery.take(kept)
        else:
            closing.close(list(kept.fds))
            if not process.is_dead():  # Else it has not had the time to name its keeper.
                self._offended(process, "it gives its connections away as if it were dead")

    def _pause_reading(self, process: WorkerProcess, source: WorkerChannel | NotifySocket) -> None:
        """Leave what a worker sends where it is: there are no descriptors for it."""
        self._loop.remove(source.fileno())

        def resume() -> None:
            if process.id in self.workers and process.is_heard:
                self._loop.add(source.fileno(), lambda: self._read_worker(process))

        self._loop.call_later(EXHAUSTED_RETRY_S, resume)

    def offended(self, worker: int, text: str) -> None:
        """A worker broke the protocol elsewhere than here. Harmless when it is gone."""
        if worker in self.workers:
            self._offended(self.workers[worker], text)

    def _offended(self, process: WorkerProcess, text: str) -> None:
        """Note that a worker broke the protocol: it is replaced, and in the end not heard."""
        process.offences += 1
        if process.offences == 1:
            reason = f"broke the protocol: {text}"
            self._journal.write(
                EventKind.WORKER_PROTOCOL,
                f"worker {process.id} (pid {process.pid}) {reason}",
                process.about(),
            )
            self._report(ev.WorkerOffended(WorkerId(process.id), reason))
        elif not process.is_heard:
            for source in process.sources():
                self._loop.remove(source.fileno())

    def _notified(self, process: WorkerProcess, notification: Notification) -> None:
        worker = WorkerId(process.id)
        now = self._loop.time()
        if notification.status is not None:
            process.status = notification.status
        if notification.watchdog:
            process.last_ping = now
        if notification.taken:
            self._on_room()
        if notification.starved:
            self._on_starved(process)
        if notification.keeper:
            self._take_keeper(process, notification.keeper)
        if notification.failed is not None:
            self._report(ev.WorkerFailed(worker, notification.failed))
        if notification.ready and not process.ready_at:
            process.ready_at = process.last_ping = now
            self._report(ev.WorkerReady(worker))
        if notification.worn and process.id in self.workers:
            self._worn(process, "was told to stop")
        if notification.stopping and process.id in self.workers:
            self._report(ev.WorkerStopping(worker))

    def _take_keeper(self, process: WorkerProcess, pid: int) -> None:
        """Take note of a keeper: its worker's child, and ours when that is dead."""
        parent = parent_of(pid)
        if parent is None or process.keeper:
            return  # It has ended already, or is told a second time.
        is_its_own = parent == process.pid or (parent == os.getpid() and process.is_dead())
        if is_its_own and not self._is_known(pid) and not self._is_keeper(pid):
            process.keeper = pid
        else:
            self._offended(process, f"it says that pid {pid} is its keeper")

    def _is_keeper(self, pid: int) -> bool:
        return any(one.keeper == pid for one in self.workers.values())

    def check(self, now: float) -> None:
        """Look at the health of each worker."""
        self._let_go_of_groups()
        for process in list(self.workers.values()):
            if not process.exited:
                self._check(process, now)

    def _check(self, process: WorkerProcess, now: float) -> None:
        nonsense = process.channel.nonsense()
        if nonsense and not process.offences:
            self._offended(process, f"its scoreboard says that {nonsense}")
        figures = process.figures(now)
        worker = WorkerId(process.id)
        is_awaited = not process.retired or process.has_connections()
        reason = health.hung(figures, process.limits, now) if is_awaited else ""
        if reason and process.suspected:
            self._report(ev.WorkerHung(worker, reason))
        # It has until the next look: it may be that all of us stood still, and it is to run yet.
        process.suspected = bool(reason)
        if reason:
            return
        reason = health.worn(figures, process.limits)
        if reason:
            self._worn(process, reason)

    def _worn(self, process: WorkerProcess, reason: str) -> None:
        if not process.finding:
            process.finding = reason
            text = f"worker {process.id} {reason}: it is replaced"
            self._journal.write(EventKind.WORKER_WORN, text, process.about())
        self._report(ev.WorkerWorn(WorkerId(process.id), reason))

    def _exited(self, process: WorkerProcess, wait_status: int) -> None:
        process.exited, process.wait_status = True, wait_status
        status = exit_text(wait_status)
        if process.retired and process.has_group():
            # A shell, say, whose server still answers: it has until the drain time-out.
            process.status_at_exit = status
            process.kill_group(signal.SIGTERM)
        else:
            process.kill_group(signal.SIGKILL)
            self._gone(process, status)

    def _let_go_of_groups(self) -> None:
        """Find the commands of which nothing is left."""
        for process in list(self.workers.values()):
            if process.status_at_exit and not process.has_group():
                self._gone(process, process.status_at_exit)

    def _gone(self, process: WorkerProcess, status: str) -> None:
        self._read_worker(process, most=MAX_LAST_FRAMES)
        if process.id not in self.workers:
            return
        recovery = self._keepers.recovery(process)
        ending = ev.WorkerExited(
            WorkerId(process.id),
            status,
            had_requests=process.had_requests(self._loop.time()),
            was_killed=os.WIFSIGNALED(process.wait_status),
        )
        del self.workers[process.id]
        # Not before it was heard to the end: what it has handed over may have gone back to it.
        self._on_gone(process, process.channel.untaken())
        self._release(process, but_channel=recovery is not None)
        if recovery is not None:
            recovery.begin()
        self._report(ending)
        self._was_aborted(process)  # After what is said of it: the next one writes its stacks now.

    def _release(self, process: WorkerProcess, *, but_channel: bool = False) -> None:
        if process.is_heard:
            for source in process.sources():
                self._loop.remove(source.fileno())
        process.close(but_channel=but_channel)

    # All of them.

    def reap(self) -> None:
        """Collect every child that has exited."""
        for mold in [*self._molds.values(), *self._leaving.values()]:
            self._read_mold(mold)  # A worker may be reported and dead already.
        for pid, status in self._collected():
            for process in self.workers.values():
                if process.pid == pid and not process.exited:
                    self._exited(process, status)
                    break
            else:
                self._other_gone(pid, status)
        self._let_go_of_groups()

    def _collected(self) -> Iterator[tuple[int, int]]:
        if not self._spare_others:
            yield from _collected()
            return
        molds = [*self._molds.values(), *self._leaving.values()]
        own = [*(mold.pid for mold in molds), *(one.pid for one in self.workers.values())]
        for pid in own:
            if pid:
                yield from _collected(pid)
        yield from self._collected_orphans()

    def _collected_orphans(self) -> Iterator[tuple[int, int]]:
        """Yield those that workers have left: they are in the session of a mold, see setsid(2)."""
        while True:
            try:
                found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:
                return
            if found is None or not _is_in_session(found.si_pid, self._sessions):
                return  # It is the program's own, which will collect it.
            yield from _collected(found.si_pid)

    def _other_gone(self, pid: int, status: int) -> None:
        for mold in [*self._leaving.values(), *self._molds.values()]:
            if mold.pid == pid:
                self._mold_gone(mold, exit_text(status))
                return
        if self._keepers.take_end(pid, self.workers.values()):
            return
        # An orphan of the app's, adopted as subreaper; or a worker that is not reported yet.
        if self._awaits_report():
            if len(self._early_exits) >= MAX_EARLY_EXITS:
                self._early_exits.pop(next(iter(self._early_exits)))
            self._early_exits[pid] = status

    def _awaits_report(self) -> bool:
        return any(mold.unanswered for mold in [*self._molds.values(), *self._leaving.values()])

    def close(self) -> None:
        """End the molds that are left, and all recoveries."""
        self._keepers.close()
        for mold in [*self._molds.values(), *self._leaving.values()]:
            mold.kill(signal.SIGKILL)
            os.waitpid(mold.pid, 0)
            mold.close()
        self._molds.clear()
        self._leaving.clear()


def _is_in_session(pid: int, sessions: Container[int]) -> bool:
    try:
        return os.getsid(pid) in sessions
    except ProcessLookupError:
        return False


def _collected(wanted: int = -1) -> Iterator[tuple[int, int]]:
    """Yield each child that has exited, or `wanted` if it has, with its wait(2) status."""
    while True:
        try:
            pid, status = os.waitpid(wanted, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            return
        yield pid, status
