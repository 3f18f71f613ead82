"""The master of a program that uses the library: its handlers decide, in place of the supervisor.

The machinery is the service's: molds, workers, channels, dispatch, listeners. The loop is
asyncio's, as the program's own code runs here too.
"""

import asyncio
import contextlib
import os
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sdcluster.core import actions as act
from sdcluster.core import events as ev
from sdcluster.core.manual import (
    Action,
    Announce,
    Event,
    ForkWanted,
    Manual,
    SettingsChanged,
    Stage,
)
from sdcluster.core.states import ExitReason, Generation, Slot, WorkerId
from sdcluster.errors import ClusterError, ProtocolError, SpawnError, reason_of
from sdcluster.master.connections.channels import Untaken
from sdcluster.master.host import closing
from sdcluster.master.host.driver import Driver
from sdcluster.master.host.journal import EventKind, Journal
from sdcluster.master.host.systemd import ServiceManager, take_listen_fds
from sdcluster.master.processes import inheritance
from sdcluster.master.processes.children import Children
from sdcluster.master.processes.workers import WorkerProcess
from sdcluster.master.program.bulletin import Bulletin
from sdcluster.master.program.farewells import Farewells
from sdcluster.master.program.handlers import STOP_SIGNALS, Handlers
from sdcluster.master.program.inbox import Inbox
from sdcluster.master.program.openings import Openings
from sdcluster.master.program.peer import Worker
from sdcluster.master.program.settings import Settings
from sdcluster.messaging.requests import encode
from sdcluster.system import process
from sdcluster.system.event_loop import AsyncLoop
from sdcluster.wire import messages
from sdcluster.wire.messages import Frame, Kind

if TYPE_CHECKING:
    from sdcluster.messaging.machines import Everywhere


@dataclass(frozen=True, slots=True)
class _Machinery:
    """What runs from the first fork on."""

    manual: Manual
    driver: Driver[Event, Action]
    children: Children
    openings: Openings
    inbox: Inbox
    bulletin: Bulletin


class Primary:
    """The master's side of the library, one a process."""

    def __init__(self) -> None:
        self.workers: dict[int, Worker] = {}
        self.loop = asyncio.new_event_loop()
        self.handlers = Handlers(self.loop, on_idle=self._end_if_idle)
        self._settings = Settings()
        self._everywhere: Everywhere | None = None
        self._inherited: inheritance.Inheritance = ()
        """What the workers of the last fork have of this process."""
        self._was_set_up = False
        self._events_loop = AsyncLoop(self.loop)
        self._machinery: _Machinery | None = None
        self._farewells = Farewells(self.loop)
        self._last = 0
        self._untold: deque[tuple[Callable[..., object], tuple[Any, ...]]] = deque()
        self._ran = False
        self._ended: asyncio.Future[None] = self.loop.create_future()

    # What the program does.

    @property
    def settings(self) -> Mapping[str, Any]:
        """What the program has set."""
        return self._settings.given

    def setup(self, **settings: Any) -> None:
        """Change what later forks are made of, see `cluster.setup_master`."""
        self._settings.change(settings, has_forked=self._machinery is not None)
        if self._machinery is not None:
            self.feed(SettingsChanged(self._settings.config().drain_timeout_s))
        self._was_set_up = True
        self._soon(self.handlers.events.emit, "setup", self.settings)

    def fork(self, environment: Mapping[str, str] | None) -> Worker:
        """Order a worker; one that is dead from the start when the cluster stops."""
        self._check_open()
        if not self._was_set_up:
            self.setup()
        manual = self._started().manual
        self._see_changes()
        self._last += 1
        worker = Worker(self, self._last, dict(environment or {}))
        if manual.stopping:
            worker.state = worker._stage = "dead"
            worker.exit_reason = ExitReason.STOP
            worker.exited_after_disconnect = True
            worker._settle()
            return worker
        self.workers[worker.id] = worker
        self.feed(ForkWanted(WorkerId(worker.id)))
        return worker

    def _see_changes(self) -> None:
        """Have this fork be of another mold than those before it, if it is to see other things."""
        inherited = inheritance.now(self._settings.config())
        if inherited != self._inherited:
            self._inherited = inherited
            self.feed(SettingsChanged())

    def run(self) -> None:
        """Run until no worker is left, or a signal ends the cluster."""
        self._check_open()
        if self._ran:
            raise ClusterError("run was called before")
        if threading.current_thread() is not threading.main_thread():
            raise ClusterError("run is for the main thread, which hears the signals")
        self._ran = True
        bulletin = self._started().bulletin
        bulletin.ready_states = self._settings.ready_states
        bulletin.begin()
        for number in STOP_SIGNALS:
            self.loop.add_signal_handler(number, self._stop)
        asyncio.set_event_loop(self.loop)
        try:
            self.loop.run_until_complete(self._until_ended())
        finally:
            self._close()

    def _check_open(self) -> None:
        if self.loop.is_closed():
            raise ClusterError("the cluster has ended: run has returned")

    def _soon(self, function: Callable[..., object], *arguments: Any) -> None:
        if not self.loop.is_closed():
            self.loop.call_soon(function, *arguments)

    async def _until_ended(self) -> None:
        self._end_if_idle()
        await self._ended
        await self.handlers.end()

    def on(
        self, event: str, *, once: bool = False
    ) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
        """Return a decorator for a handler of an event."""
        return self.handlers.events.on(event, once=once)

    def off(self, event: str, handler: Callable[..., Any]) -> None:
        """Call a handler no more."""
        self.handlers.events.off(event, handler)

    def on_request(self, handler: Callable[..., Any]) -> Callable[..., Any]:
        """Answer the requests of workers with what a handler returns."""
        self.handlers.answerer = handler
        return handler

    def every(self, seconds: float, function: Callable[[], Any]) -> None:
        """Call a function every so many seconds, for as long as the cluster runs."""
        self.handlers.every(seconds, function)

    def broadcast(self, message: Any, *, everywhere: bool = False) -> bool:
        """Send every worker a message; False when one of them is slow to read."""
        if everywhere:
            return self._all_machines().publish(encode(message))
        return self._send_all(Frame(Kind.MESSAGE, encode(message)))

    def _all_machines(self) -> "Everywhere":
        from sdcluster.messaging.machines import Everywhere

        if self._everywhere is None:
            self._everywhere = Everywhere(self._settings.config().name)
        return self._everywhere

    def _send_all(self, frame: Frame) -> bool:
        """Send every worker a frame; raise what one of them did when all others have it."""
        try:
            data = messages.encode(frame)
        except ProtocolError as error:
            raise ClusterError(f"cannot send to the workers: {error}") from error
        has_room, failure = True, None
        for worker in self.workers.values():
            if not worker.is_connected:
                continue
            try:
                has_room = worker._send_encoded(data) and has_room
            except ClusterError as error:
                if not isinstance(error.__cause__, BrokenPipeError):  # Else its exit follows.
                    failure = error
        if failure is not None:
            raise failure
        return has_room

    def on_signal(self, number: int, function: Callable[[], Any]) -> None:
        """Call a function, in the loop, when this process gets a signal."""
        self.handlers.on_signal(number, function)

    def _stop(self) -> None:
        machinery = self._started()
        at_once = machinery.manual.stopping
        machinery.bulletin.stops()
        if not at_once:
            machinery.openings.stop()
            for child in machinery.children.workers.values():
                child.channel.finish()
        for worker in self.workers.values():
            worker.exited_after_disconnect |= not worker._has_ended
        self.feed(ev.StopRequested(at_once=at_once))

    def disconnect(self) -> "asyncio.Future[None]":
        """Have every worker leave. What is returned is done when they have left."""
        self._check_open()
        done = self._farewells.wait(self.workers)
        for worker in list(self.workers.values()):
            worker.disconnect()
        self._soon(self._say_farewell)
        return done

    def _say_farewell(self) -> None:
        self._farewells.tell(self.workers)

    def kill(self, worker: Worker, number: signal.Signals) -> None:
        """Send a worker a signal, by the program's wish."""
        if worker._has_ended:
            return
        worker._signals.add(number.name)
        child = self._started().children.workers.get(worker.id)
        if child is None or (worker._stage == "none" and number is not signal.SIGKILL):
            worker._early_signals.append(number)
        else:
            child.kill(number)

    def _send_early_signals(self, worker: Worker) -> None:
        signals, worker._early_signals = worker._early_signals, []
        for number in signals:
            self.kill(worker, number)

    # The machinery.

    def _started(self) -> _Machinery:
        """Return the machinery, which the first one to need it starts."""
        if self._machinery is None:
            self._machinery = self._start()
        return self._machinery

    def _start(self) -> _Machinery:
        passed = take_listen_fds()  # Before a descriptor is opened in the place of one missing.
        bulletin = Bulletin(
            ServiceManager(),
            self._events_loop,
            lambda: [worker._stage for worker in self.workers.values()],
        )
        process.become_subreaper()
        config = self._settings.config()
        journal = Journal(config.name)
        openings = Openings(
            self._events_loop,
            passed,
            on_exhausted=lambda error: journal.write(
                EventKind.ACCEPT_PAUSED, f"cannot accept: {reason_of(error)}"
            ),
        )
        children = Children(
            loop=self._events_loop,
            journal=journal,
            report=self._report,
            on_room=lambda: None,
            on_starved=lambda _child: None,  # It gets its connections elsewhere.
            on_gone=self._child_gone,
            on_passage=lambda passage: closing.close([passage.fd]),  # Nobody hands any over.
            on_blame=lambda _signature: None,
            on_recovered=lambda _child, _summary: None,
            is_ours=lambda _connection: False,
            spare_others=True,
        )
        self.loop.add_signal_handler(signal.SIGCHLD, children.reap)
        inbox = Inbox(
            openings,
            self.handlers,
            is_shared=config.scheduling == "shared",
            feed=self.feed,
            send_all=self._send_all,
            soon=self._tell,
            on_listening=self._listens,
        )
        manual = Manual(drain_timeout_s=config.drain_timeout_s)
        driver: Driver[Event, Action] = Driver(
            manual, perform=self._perform, loop=self._events_loop, time_passed=ev.TimePassed()
        )
        return _Machinery(manual, driver, children, openings, inbox, bulletin)

    @property
    def inbox(self) -> Inbox:
        """What takes what workers say."""
        return self._started().inbox

    def _report(self, event: ev.Event) -> None:
        """Take a finding of the children's."""
        if isinstance(event, ev.WorkerStopping) and event.worker in self.workers:
            self.workers[event.worker].exited_after_disconnect = True
        self.feed(event)

    def feed(self, event: Event) -> None:
        """Tell the policy what happened and do what it says."""
        self._started().driver.feed(event)

    def _perform(self, action: Action) -> None:
        children, openings = self._started().children, self._started().openings
        match action:
            case act.LoadGeneration(generation):
                self._load(generation)
            case act.StopMold(generation):
                children.stop_mold(generation)
            case act.SpawnWorker(worker, slot, generation):
                self._spawn(worker, slot, generation)
            case act.RetireWorker(worker):
                openings.retire(worker)
                if worker in children.workers:
                    children.workers[worker].retire()
            case act.KillWorker(worker):
                if worker in children.workers:
                    children.strike(children.workers[worker], signal.SIGKILL)
            case Announce():
                self._announce(action)
            case act.Finish():
                self._end()

    def _load(self, generation: Generation) -> None:
        try:
            self._started().children.start_mold(
                self._settings.config(), generation, listener_names=()
            )
        except SpawnError as error:
            self.feed(ev.MoldFailed(generation, str(error)))

    def _spawn(self, number: WorkerId, slot: Slot, generation: Generation) -> None:
        worker = self.workers[number]
        try:
            self._started().children.spawn(
                number,
                slot,
                generation,
                listeners=[worker._theirs.fileno()],
                environment=worker._environment,
            )
        except SpawnError as error:
            self.feed(ev.ForkFailed(number, str(error)))
            return
        worker._theirs.close()
        if signal.SIGKILL in worker._early_signals:
            self._send_early_signals(worker)

    def _announce(self, told: Announce) -> None:
        worker = self.workers[told.worker]
        worker._stage = told.stage.value
        arguments: tuple[Any, ...] = ()
        match told.stage:
            case Stage.FORKED:
                event = "fork"
            case Stage.ONLINE:
                event = "online"
                worker.pid = self._started().children.workers[worker.id].pid
                self._soon(self._send_early_signals, worker)
            case Stage.DISCONNECTED:
                event = "disconnect"
            case Stage.DEAD:
                event, arguments = "exit", self._bury(worker, told)
        self._emit(worker, event, *arguments)
        self._tell_manager()
        if told.stage is Stage.ONLINE:
            self.inbox.take_early(worker)
        if told.stage is Stage.DEAD:
            self._tell(self._say_farewell)
            self._tell(self._end_if_idle)

    def _tell_manager(self) -> None:
        if self._ran:
            self._started().bulletin.changed()

    def _listens(self, worker: Worker, address: Any) -> None:
        worker._stage = "listening"
        self._tell_manager()
        self._emit(worker, "listening", address)

    def _emit(self, worker: Worker, event: str, *arguments: Any) -> None:
        """Tell those who hear the worker, and those who hear all; never within a call of theirs.

        What they see of the worker then is what they are told, and nothing that has come after it.
        """
        self._tell(self._enter, worker, worker._stage)
        if event != "fork":
            self._tell(worker._emitter.emit, event, *arguments)
        self._tell(self.handlers.events.emit, event, worker, *arguments)

    def _enter(self, worker: Worker, state: str) -> None:
        worker.state = state
        if worker.is_dead:
            del self.workers[worker.id]

    def _tell(self, function: Callable[..., object], *arguments: Any) -> None:
        """Call something of the program's soon: one turn of the loop for all there is to tell."""
        self._untold.append((function, arguments))
        if len(self._untold) == 1:
            self._soon(self._tell_all)

    def _tell_all(self) -> None:
        told, self._untold = self._untold, deque()
        try:
            while told:
                function, arguments = told.popleft()
                function(*arguments)
        finally:
            if told:
                told.extend(self._untold)
                self._untold = told
                self._soon(self._tell_all)

    def _bury(self, worker: Worker, told: Announce) -> tuple[int | None, str | None]:
        code, number = worker._ending
        worker.exit_reason = told.reason
        if number in worker._signals and not worker.exited_after_disconnect:
            worker.exit_reason = ExitReason.KILLED
        self._started().openings.gone(worker.id)
        worker._settle()
        if told.reason in (ExitReason.CRASH, ExitReason.BOOT_FAILED):
            self._started().bulletin.crashed()
        if code is None and number is None and not worker.exited_after_disconnect:
            print(f"sdcluster: worker {worker.id}: {told.detail}", file=sys.stderr)
        return code, number

    def _child_gone(self, child: WorkerProcess, untaken: Untaken) -> None:
        untaken.close()
        code = os.waitstatus_to_exitcode(child.wait_status)
        name = None
        if code < 0:
            with contextlib.suppress(ValueError):
                name = signal.Signals(-code).name
        worker = self.workers.get(child.id)
        if worker is not None:
            worker._ending = (None, name or f"signal {-code}") if code < 0 else (code, None)
            worker._messenger.read_rest()

    # The end.

    def _end_if_idle(self) -> None:
        if self._ran and not self.workers and self.handlers.is_idle:
            self._end()

    def _end(self) -> None:
        if not self._ended.done():
            self._ended.set_result(None)

    def _close(self) -> None:
        machinery = self._started()
        machinery.openings.close_all()
        machinery.children.close()
        machinery.bulletin.close()
        self.loop.run_until_complete(self.loop.shutdown_asyncgens())
        self.loop.close()
        asyncio.set_event_loop(None)
