"""The cluster: carries the supervisor's actions out and tells it what happened.

Every fact, from whatever source, becomes one event in one queue; `_perform` is the one place where
a decision becomes a deed. Nothing is decided here.
"""

import os
import random
import signal
from collections import deque
from collections.abc import Callable, Iterator
from typing import Protocol, assert_never

from sdcluster.config import Config
from sdcluster.core import actions as act
from sdcluster.core import events as ev
from sdcluster.core.states import (
    EXPECTED,
    Generation,
    Phase,
    Policy,
    ReloadCause,
    Slot,
    WorkerId,
    WorkerState,
)
from sdcluster.core.supervisor import Supervisor
from sdcluster.errors import (
    EX_SOFTWARE,
    ConfigError,
    ListenError,
    ProtocolError,
    SpawnError,
)
from sdcluster.master import health
from sdcluster.master.channels import WorkerChannel
from sdcluster.master.dispatch import Dispatcher
from sdcluster.master.journal import About, EventKind, Journal
from sdcluster.master.listeners import ListenerSet
from sdcluster.master.loop import Loop, Timer
from sdcluster.master.molds import Mold
from sdcluster.master.readiness import NotifySocket
from sdcluster.master.systemd import ServiceManager
from sdcluster.master.workers import WorkerProcess, exit_text, is_child
from sdcluster.runtime import directory
from sdcluster.wire import frames
from sdcluster.wire.notify import Notification

TICK_S = 1.0
"""How often the workers' health is looked at and systemd is told how things are."""
MAX_OFFENCES = 8
"""Frames that break the protocol, after which a worker is not listened to any more."""
FRAMES_PER_TURN = 32
MAX_EARLY_EXITS = 64


class Observer(Protocol):
    """Who is told about the cluster's course: those that wait on the control socket."""

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


class Cluster:
    """One running instance."""

    def __init__(
        self,
        *,
        config: Config,
        reread: Callable[[], Config],
        listeners: ListenerSet,
        loop: Loop,
        journal: Journal,
        manager: ServiceManager,
        on_ready: Callable[[], None],
    ) -> None:
        """`reread` returns the config as it is now, for a reload; it may raise `ConfigError`."""
        self.config = config
        self.supervisor = Supervisor(jitter=random.random)
        self.listeners = listeners
        self.processes: dict[int, WorkerProcess] = {}
        self.last_exits: dict[int, act.RecordExit] = {}
        self.exit_status = 0
        self.observer: Observer | None = None
        self._first_config: Config | None = config
        self._reread = reread
        self._loop = loop
        self._journal = journal
        self._manager = manager
        self._on_ready = on_ready
        self._molds: dict[int, Mold] = {}
        self._leaving_molds: dict[int, Mold] = {}
        self._early_exits: dict[int, int] = {}
        self._events: deque[ev.Event] = deque()
        self._feeding = False
        self._timer: Timer | None = None
        self._timer_at: float | None = None
        self._last_tick = 0.0
        self._announced = False
        self._dispatcher = Dispatcher(
            loop, max_connections=config.max_connections, on_exhausted=self._exhausted
        )

    # The course of things.

    def run(self) -> int:
        """Run until the cluster is stopped or cannot start. Return the exit status."""
        self._handle_signals()
        self._journal.write(
            EventKind.STARTING,
            f"starting {self.config.workers} workers on {', '.join(self.listeners.addresses())}",
        )
        if not self.config.is_command:
            self.listeners.set_nonblocking()
        if self.config.scheduling == "round-robin":
            for listener in self.listeners.all:
                self._dispatcher.watch(listener.socket)
        self._tick()
        self.feed(ev.StartRequested())
        self._loop.run()
        self._end()
        return self.exit_status

    def feed(self, event: ev.Event) -> None:
        """Tell the supervisor what happened and do what it says."""
        self._events.append(event)
        if self._feeding:
            return
        self._feeding = True
        while self._events:
            now = self._loop.time()
            for action in self.supervisor.handle(self._events.popleft(), now):
                self._perform(action)
        self._feeding = False
        self._set_timer()

    def _set_timer(self) -> None:
        deadline = self.supervisor.deadline()
        if deadline == self._timer_at:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer, self._timer_at = None, deadline
        if deadline is not None:
            self._timer = self._loop.call_at(deadline, self._time_passed)

    def _time_passed(self) -> None:
        self._timer = self._timer_at = None
        self.feed(ev.TimePassed())

    def _handle_signals(self) -> None:
        def reload() -> None:
            self.feed(ev.ReloadRequested())

        def stop() -> None:
            at_once = self.supervisor.phase is Phase.STOPPING
            self.feed(ev.StopRequested(at_once=at_once))

        for number in (signal.SIGTERM, signal.SIGINT):
            self._loop.on_signal(number, stop)
        for number in (signal.SIGHUP, signal.SIGUSR2):
            self._loop.on_signal(number, reload)
        self._loop.on_signal(signal.SIGTTIN, lambda: self.scale(self.supervisor.wanted + 1))
        self._loop.on_signal(signal.SIGTTOU, lambda: self.scale(self.supervisor.wanted - 1))
        self._loop.on_signal(signal.SIGCHLD, self._reap)
        self._loop.on_signal(signal.SIGUSR1, lambda: None)

    def scale(self, workers: int) -> None:
        """Change the number of workers; at least one stays."""
        self.feed(ev.ScaleRequested(max(1, workers)))

    def _end(self) -> None:
        for mold in [*self._molds.values(), *self._leaving_molds.values()]:
            mold.kill(signal.SIGKILL)
            os.waitpid(mold.pid, 0)
            mold.close()
        self._dispatcher.close()
        self._journal.write(EventKind.STOPPED, "stopped")

    # Decisions become deeds.

    def _perform(self, action: act.Action) -> None:
        match action:
            case act.LoadGeneration(generation):
                self._load(generation)
            case act.StopMold(generation):
                self._stop_mold(generation)
            case act.AbortMold(generation):
                self._kill_mold(generation, signal.SIGABRT)
            case act.KillMold(generation):
                self._kill_mold(generation, signal.SIGKILL)
            case act.SpawnWorker(worker, slot, generation):
                self._spawn(worker, slot, generation)
            case act.AdmitWorker(worker):
                self._admit(self.processes[worker])
            case act.RetireWorker(worker, reason):
                process = self.processes.get(worker)
                if process is not None:
                    self._retire(process, reason.value)
            case act.AbortWorker(worker, text):
                self._strike(self.processes[worker], signal.SIGABRT, text)
            case act.KillWorker(worker, text):
                self._strike(self.processes[worker], signal.SIGKILL, text)
            case act.RecordExit():
                self._record_exit(action)
            case act.AnnounceReady():
                self._announce_ready()
            case act.BeginReload() | act.ReportProgress() | act.BeginRollback() | act.EndReload():
                self._report_reload(action)
            case act.BeginStop():
                self._begin_stop()
            case act.Finish(failure):
                self._finish(failure)
            case _:
                assert_never(action)

    def _load(self, generation: Generation) -> None:
        try:
            config = self._first_config or self._checked(self._reread())
            self._first_config = None
            names = [listener.name for listener in self.listeners.for_slot(0)]
            mold = Mold(config, generation, listener_names=names)
        except (ConfigError, SpawnError, ListenError) as error:
            self.feed(ev.MoldFailed(generation, str(error)))
            return
        self._molds[generation] = mold
        self._loop.add(mold.fileno(), lambda: self._read_mold(mold))
        self.feed(ev.MoldStarted(generation, _policy(config)))

    def _checked(self, config: Config) -> Config:
        """Return a re-read config, if a running cluster can take it on. Raises `ConfigError`."""
        old = self.config
        changed = {
            "listen": config.listen_given and config.listen != old.listen,
            "scheduling": config.scheduling != old.scheduling,
            "exec": config.is_command != old.is_command,
        }
        for key, has_changed in changed.items():
            if has_changed:
                raise ConfigError(f"{config.source}: {key} has changed; that takes a restart")
        return config

    def _stop_mold(self, generation: int) -> None:
        mold = self._molds.pop(generation, None)
        if mold is not None:
            self._leaving_molds[generation] = mold
            mold.retire()

    def _kill_mold(self, generation: int, number: signal.Signals) -> None:
        mold = self._molds.get(generation)
        if mold is not None:
            mold.kill(number)  # Not reaped yet, so the pid is still its own.

    def _spawn(self, worker: WorkerId, slot: Slot, generation: Generation) -> None:
        mold = self._molds[generation]
        notify_socket: NotifySocket | None = None
        channel: WorkerChannel | None = None
        try:
            channel = WorkerChannel()
            descriptors = channel.descriptors()
            if mold.config.scheduling != "round-robin":
                own = self.listeners.for_slot(slot)
                if not mold.config.is_command:
                    self.listeners.set_nonblocking()
                descriptors += [listener.socket.fileno() for listener in own]
            watchdog_s = 0.0
            if mold.config.is_command:
                notify_socket = NotifySocket(directory(mold.config.name), worker)
                watchdog_s = mold.config.heartbeat_timeout_s
            order = frames.Fork(
                worker=worker,
                slot=slot,
                notify_socket=notify_socket.path if notify_socket else "",
                watchdog_usec=int(watchdog_s * 1e6),
            )
            mold.fork(order, descriptors)
        except (OSError, ListenError) as error:
            if channel is not None:
                channel.close()
            if notify_socket is not None:
                notify_socket.close()
            self.feed(ev.ForkFailed(worker, f"cannot start a process: {error}"))
            return
        channel.given()
        process = WorkerProcess(
            worker,
            slot,
            generation,
            mold,
            channel,
            health.limits(mold.config, jitter=random.random()),
            self._loop.time(),
            notify_socket,
        )
        self.processes[worker] = process
        self._loop.add(channel.fileno(), lambda: self._read_worker(process))
        if notify_socket is not None:
            self._loop.add(notify_socket.fileno(), lambda: self._read_worker(process))

    def _admit(self, process: WorkerProcess) -> None:
        if not process.is_command:
            process.channel.admit()
            self._dispatcher.set_max_connections(process.mold.config.max_connections)
            self._dispatcher.add(process.channel)
        self._watch_unowned()
        self._journal.write(
            EventKind.WORKER_READY,
            f"worker {process.id} (pid {process.pid}, slot {process.slot}, "
            f"gen {process.generation}) serves",
            _about(process),
        )

    def _retire(self, process: WorkerProcess, reason: str) -> None:
        self._dispatcher.remove(process.channel)
        self._watch_unowned()
        if process.is_command:
            process.kill(signal.SIGTERM)
        process.channel.retire()
        self._journal.write(
            EventKind.WORKER_RETIRED,
            f"worker {process.id} (pid {process.pid}) is retired: {reason}",
            _about(process),
        )

    def _strike(self, process: WorkerProcess, number: signal.Signals, text: str) -> None:
        self._dispatcher.remove(process.channel)
        self._watch_unowned()
        self._journal.write(
            EventKind.WORKER_STUCK,
            f"worker {process.id} (pid {process.pid}) {text}: {number.name}",
            _about(process),
        )
        process.kill(number)

    def _watch_unowned(self) -> None:
        """Accept, for others, what comes in on a slot's own socket while no worker serves it."""
        stopping = self.supervisor.phase is Phase.STOPPING
        if stopping or self.config.scheduling != "reuseport" or self.config.is_command:
            return
        for listener in self.listeners.all:
            slot = self.supervisor.slots.get(Slot(listener.slot or 0))
            if slot is not None and slot.serving is not None:
                self._dispatcher.unwatch(listener.socket)
            else:
                listener.socket.setblocking(False)
                self._dispatcher.watch(listener.socket)

    def _record_exit(self, action: act.RecordExit) -> None:
        self.last_exits[action.slot] = action
        expected = action.reason in EXPECTED
        text = f"worker {action.worker} of slot {action.slot} is gone ({action.reason.value})"
        if not expected:
            text += f": {action.status}"
            if action.respawn_in_s:
                text += f"; the next one starts in {action.respawn_in_s:.1f} s"
        self._journal.write(
            EventKind.WORKER_RETIRED if expected else EventKind.WORKER_LOST,
            text,
            About(action.slot, action.worker, action.generation),
        )

    def _announce_ready(self) -> None:
        self._announced = True
        self._manager.ready()
        self._manager.alive()
        self._tell_status()
        self._journal.write(
            EventKind.READY,
            f"ready: {self.status_line()}",
            About(generation=self.supervisor.current),
        )
        self._on_ready()

    def _report_reload(
        self, action: act.BeginReload | act.ReportProgress | act.BeginRollback | act.EndReload
    ) -> None:
        generation = action.generation
        observer = self.observer
        match action:
            case act.BeginReload(_, cause):
                why = "" if cause is ReloadCause.REQUEST else " (the mold died)"
                self._manager.reloading()
                self._manager.extend_timeout()
                text = f"reload to generation {generation} begins{why}"
                self._journal.write(EventKind.RELOAD_BEGUN, text, About(generation=generation))
                if observer:
                    observer.began(action)
            case act.ReportProgress():
                if observer:
                    observer.progressed(action)
            case act.BeginRollback(_, reason):
                text = f"generation {generation} failed, its workers go back: {reason}"
                self._journal.write(EventKind.ROLLBACK, text, About(generation=generation))
                if observer:
                    observer.rolls_back(action)
            case act.EndReload(_, _, failure):
                if failure:
                    text = f"reload failed, the old code serves on: {failure}"
                    self._journal.write(EventKind.RELOAD_FAILED, text, About(generation=generation))
                else:
                    self.config = self._molds[generation].config
                    text = f"reload done, generation {generation} serves"
                    self._journal.write(EventKind.RELOAD_DONE, text, About(generation=generation))
                if self.supervisor.phase is Phase.RUNNING:
                    self._manager.ready()
                self._tell_status()
                if observer:
                    observer.ended(action)

    def _begin_stop(self) -> None:
        self._manager.stopping()
        self._manager.extend_timeout()
        if self._announced:
            self._journal.write(EventKind.STOPPING, "stopping: the workers drain")
        if self.observer:
            self.observer.stops()
        if not self.config.is_command:
            for listener in self.listeners.all:
                if not listener.inherited and self._announced:
                    self._dispatcher.accept_all(listener.socket)  # Its backlog ends with it.
                self._dispatcher.unwatch(listener.socket)
        self.listeners.close_bound()

    def _finish(self, failure: str) -> None:
        if failure:
            self.exit_status = EX_SOFTWARE
            self._journal.write(EventKind.START_FAILED, f"cannot start: {failure}")
            self._manager.status(f"cannot start: {failure}")
        self._loop.stop()

    # What happened.

    def _read_mold(self, mold: Mold) -> None:
        for _ in range(FRAMES_PER_TURN):
            try:
                report = mold.read()
            except ProtocolError as error:
                self._journal.write(
                    EventKind.WORKER_PROTOCOL,
                    f"the mold broke the protocol, and is killed: {error}",
                    About(generation=mold.generation),
                )
                mold.kill(signal.SIGKILL)
                self._loop.remove(mold.fileno())
                return
            except EOFError:
                self._loop.remove(mold.fileno())  # SIGCHLD follows.
                return
            if report is None:
                return
            self._take_report(mold, report)

    def _take_report(self, mold: Mold, report: frames.Report) -> None:
        generation = Generation(mold.generation)
        match report:
            case frames.Prepared(note=note):
                if note:
                    self._journal.write(EventKind.NOTE, note, About(generation=generation))
                self.feed(ev.MoldReady(generation))
            case frames.PrepareFailed(reason=reason, detail=detail):
                self._journal.write(
                    EventKind.MOLD_LOST,
                    f"the app of generation {generation} does not load: {reason}",
                    About(generation=generation),
                    detail=detail,
                )
                self.feed(ev.MoldFailed(generation, reason))
            case frames.Forked(worker=worker, pid=pid):
                self._forked(worker, pid)
            case frames.ForkFailed(worker=worker, reason=reason):
                self._never_forked(worker, reason)

    def _forked(self, worker: int, pid: int) -> None:
        process = self.processes.get(worker)
        if process is None:
            return
        if pid in self._early_exits:
            self._gone(process, exit_text(self._early_exits.pop(pid)))
        elif not is_child(pid):
            self._never_forked(worker, f"pid {pid} is not a child of the master")
        else:
            process.started(pid)

    def _never_forked(self, worker: int, reason: str) -> None:
        process = self.processes.pop(worker, None)
        if process is not None:
            self._release(process)
            self.feed(ev.ForkFailed(WorkerId(worker), reason))

    def _read_worker(self, process: WorkerProcess) -> None:
        for source in (process.channel, process.notify_socket):
            for _ in range(FRAMES_PER_TURN):
                if source is None or process.id not in self.processes:
                    break
                try:
                    notification = source.read()
                except ProtocolError as error:
                    self._offended(process, str(error))
                    continue
                if notification is None:
                    break
                self._notified(process, notification)

    def _offended(self, process: WorkerProcess, text: str) -> None:
        """Note that a worker broke the protocol: it is replaced, and in the end not heard."""
        process.offences += 1
        if process.offences == 1:
            self._journal.write(
                EventKind.WORKER_PROTOCOL,
                f"worker {process.id} (pid {process.pid}) broke the protocol: {text}",
                _about(process),
            )
            self.feed(ev.WorkerWorn(WorkerId(process.id), "broke the protocol"))
        elif process.offences == MAX_OFFENCES:
            self._loop.remove(process.channel.fileno())
            if process.notify_socket is not None:
                self._loop.remove(process.notify_socket.fileno())

    def _notified(self, process: WorkerProcess, notification: Notification) -> None:
        worker = WorkerId(process.id)
        now = self._loop.time()
        if notification.status is not None:
            process.status = notification.status
        if notification.watchdog:
            process.last_ping = now
        if notification.taken:
            self._dispatcher.room()
        if notification.failed is not None:
            self.feed(ev.WorkerFailed(worker, notification.failed))
        if notification.ready and not process.ready_at:
            process.ready_at = process.last_ping = now
            self.feed(ev.WorkerReady(worker))
        if notification.stopping and process.id in self.processes:
            self.feed(ev.WorkerStopping(worker))

    def _reap(self) -> None:
        for mold in [*self._molds.values(), *self._leaving_molds.values()]:
            self._read_mold(mold)  # A worker may be reported and dead already.
        for pid, status in _exited_children():
            for process in self.processes.values():
                if process.pid == pid:
                    self._read_worker(process)
                    if process.id in self.processes:
                        self._gone(process, exit_text(status))
                    break
            else:
                self._other_gone(pid, status)

    def _other_gone(self, pid: int, status: int) -> None:
        for mold in [*self._leaving_molds.values(), *self._molds.values()]:
            if mold.pid == pid:
                self._mold_gone(mold, exit_text(status))
                return
        # An orphan of the app's, adopted as subreaper; or a worker not reported yet.
        if len(self._early_exits) >= MAX_EARLY_EXITS:
            self._early_exits.pop(next(iter(self._early_exits)))
        self._early_exits[pid] = status

    def _mold_gone(self, mold: Mold, status: str) -> None:
        self._read_mold(mold)
        expected = self._leaving_molds.pop(mold.generation, None) is not None
        self._molds.pop(mold.generation, None)
        self._loop.remove(mold.fileno())
        mold.close()
        for worker in list(mold.pending):
            self._never_forked(worker, "the mold died before it forked")
        if not expected:
            self._journal.write(
                EventKind.MOLD_LOST,
                f"the mold of generation {mold.generation} (pid {mold.pid}) is gone: {status}",
                About(generation=mold.generation),
            )
            self.feed(ev.MoldExited(Generation(mold.generation), status))

    def _gone(self, process: WorkerProcess, status: str) -> None:
        del self.processes[process.id]
        self._dispatcher.remove(process.channel)
        back = process.channel.take_back()
        self._release(process)
        self.feed(ev.WorkerExited(WorkerId(process.id), status))
        self._watch_unowned()
        self._dispatcher.give_back(back)

    def _release(self, process: WorkerProcess) -> None:
        self._dispatcher.remove(process.channel)
        if process.offences < MAX_OFFENCES:
            self._loop.remove(process.channel.fileno())
            if process.notify_socket is not None:
                self._loop.remove(process.notify_socket.fileno())
        process.close()

    def _exhausted(self, error: OSError) -> None:
        self._journal.write(
            EventKind.ACCEPT_PAUSED,
            f"cannot accept: {error.strerror}; connections wait in the backlog",
        )

    # Once a second.

    def _tick(self) -> None:
        now = self._loop.time()
        late = now - self._last_tick > 3 * TICK_S
        self._last_tick = now
        if not late:  # Else the machine stood still, and the workers had no time to beat.
            for process in list(self.processes.values()):
                self._check(process, now)
        self._manager.alive()
        phase = self.supervisor.phase
        if phase is not Phase.RUNNING or self.supervisor.reload is not None:
            self._manager.extend_timeout()
        self._tell_status()
        interval_s = min(TICK_S, self._manager.watchdog_interval_s or TICK_S)
        self._loop.call_later(interval_s, self._tick)

    def _check(self, process: WorkerProcess, now: float) -> None:
        figures = process.figures(now)
        worker = WorkerId(process.id)
        reason = health.hung(figures, process.limits, now)
        if reason:
            self.feed(ev.WorkerHung(worker, reason))
            return
        reason = health.worn(figures, process.limits)
        if reason and not process.finding:
            process.finding = reason
            self._journal.write(
                EventKind.NOTE, f"worker {worker} {reason}: it is replaced", _about(process)
            )
        if reason:
            self.feed(ev.WorkerWorn(worker, reason))

    def _tell_status(self) -> None:
        self._manager.status(self.status_line())

    def status_line(self) -> str:
        """Return how things are, in one line."""
        supervisor = self.supervisor
        text = (
            f"{supervisor.ready}/{supervisor.wanted} workers ready, gen {supervisor.current}, "
            f"{self.connections()} connections, {supervisor.restarts} restarts"
        )
        if supervisor.reload is not None:
            text += f"; reload to gen {supervisor.reload.target}: {supervisor.reload.phase.value}"
        elif supervisor.phase is not Phase.RUNNING:
            text += f"; {supervisor.phase.value}"
        return text

    def connections(self) -> int:
        """Return how many connections are open in all workers."""
        return sum(process.channel.connections() for process in self.processes.values())

    def states(self) -> Iterator[tuple[WorkerProcess, WorkerState]]:
        """Return each worker process and its state, by slot."""
        for process in sorted(self.processes.values(), key=lambda one: (one.slot, one.id)):
            worker = self.supervisor.workers.get(WorkerId(process.id))
            if worker is not None:
                yield process, worker.state


def _policy(config: Config) -> Policy:
    return Policy(
        workers=config.workers,
        ready_workers=config.ready_workers,
        ready_timeout_s=config.ready_timeout_s,
        drain_timeout_s=config.drain_timeout_s,
        probation_s=config.reload_probation_s,
    )


def _about(process: WorkerProcess) -> About:
    return About(process.slot, process.id, process.generation)


def _exited_children() -> Iterator[tuple[int, int]]:
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            return
        yield pid, status
