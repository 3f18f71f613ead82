"""The master of a program that uses the library: its handlers decide, in place of the supervisor.

The machinery is the service's: molds, workers, channels, dispatch, listeners. The loop is
asyncio's, as the program's own code runs here too.
"""

import asyncio
import contextlib
import errno
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Coroutine, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sdcluster import attachment, cpus, process, requests
from sdcluster.config import Config, Scheduling
from sdcluster.core import actions as act
from sdcluster.core import events as ev
from sdcluster.core.manual import (
    Announce,
    Event,
    ForkWanted,
    KillWanted,
    Manual,
    SettingsChanged,
    Stage,
)
from sdcluster.core.states import ExitReason, Generation, Slot, WorkerId
from sdcluster.descriptors import close_all
from sdcluster.emitter import Emitter
from sdcluster.errors import ClusterError, ListenError, ProtocolError, SpawnError, reason_of
from sdcluster.loops import AsyncLoop, Timer
from sdcluster.master.bulletin import READY, Bulletin
from sdcluster.master.channels import Untaken
from sdcluster.master.children import Children
from sdcluster.master.journal import EventKind, Journal
from sdcluster.master.openings import Openings
from sdcluster.master.peer import Worker
from sdcluster.master.systemd import ServiceManager, take_listen_fds
from sdcluster.master.workers import WorkerProcess
from sdcluster.repeating import Repeating
from sdcluster.requests import decode, encode
from sdcluster.wire.messages import ALL, Frame, Kind, refusal

if TYPE_CHECKING:
    from sdcluster.everywhere import Everywhere

EVENTS = ("setup", "fork", "online", "listening", "message", "disconnect", "exit")
SCHEDULING_VARIABLE = "SDCLUSTER_SCHEDULING"
HANDLERS_TIMEOUT_S = 3.0
"""How long handlers that are coroutines may go on when the cluster has ended."""


class Primary:
    """The master's side of the library, one a process."""

    def __init__(self) -> None:
        self.workers: dict[int, Worker] = {}
        self.settings: dict[str, Any] = {}
        self.loop = asyncio.new_event_loop()
        self.emitter = Emitter(EVENTS, start=self.start)
        self._events_loop = AsyncLoop(self.loop)
        self._children: Children | None = None
        self._openings: Openings | None = None
        self._bulletin: Bulletin | None = None
        self._manual: Manual | None = None
        self._everywhere: Everywhere | None = None
        self._answerer: Callable[..., Any] | None = None
        self._is_shared = False
        self._was_set_up = False
        self._farewells: list[tuple[set[int], asyncio.Future[None]]] = []
        self._last = 0
        self._queue: list[Event] = []
        self._feeding = False
        self._timer: Timer | None = None
        self._tasks: set[asyncio.Task[Any]] = set()
        self._ran = False
        self._ended: asyncio.Future[None] = self.loop.create_future()

    # What the program does.

    def setup(self, **settings: Any) -> None:
        """Change what later forks are made of, see `cluster.setup_master`."""
        given = {name: value for name, value in settings.items() if value is not None}
        scheduling = given.get("scheduling")
        if scheduling is not None:
            _check_scheduling(scheduling)
            if self._manual is not None:
                raise ClusterError("the scheduling is set before the first fork, and stays")
        if given.get("ready", "online") not in READY:
            raise ClusterError(f"ready is one of {', '.join(READY)}")
        if isinstance(given.get("script"), (str, os.PathLike)):
            given["script"] = [os.fspath(given["script"])]
        self.settings |= given
        if self._manual is not None:
            self.feed(SettingsChanged(self._config().drain_timeout_s))
        self._was_set_up = True
        self._soon(self.emitter.emit, "setup", self.settings)

    def fork(self, environment: Mapping[str, str] | None) -> Worker:
        """Order a worker; one that is dead from the start when the cluster stops."""
        self._check_open()
        if not self._was_set_up:
            self.setup()
        self._start_machinery()
        self._last += 1
        worker = Worker(self, self._last, dict(environment or {}))
        if self._machinery()[0].stopping:
            worker.state, worker.exit_reason = "dead", ExitReason.STOP
            worker.exited_after_disconnect = True
            worker._settle()
            return worker
        self.workers[worker.id] = worker
        self.feed(ForkWanted(WorkerId(worker.id)))
        return worker

    def run(self) -> None:
        """Run until no worker is left, or a signal ends the cluster."""
        self._check_open()
        if self._ran:
            raise ClusterError("run was called before")
        if threading.current_thread() is not threading.main_thread():
            raise ClusterError("run is for the main thread, which hears the signals")
        self._ran = True
        self._start_machinery()
        assert self._bulletin is not None
        self._bulletin.ready_states = READY[self.settings.get("ready", "listening")]
        self._bulletin.begin()
        for number in (signal.SIGTERM, signal.SIGINT):
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
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=HANDLERS_TIMEOUT_S)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def start(self, coroutine: Coroutine[Any, Any, Any]) -> "asyncio.Task[Any]":
        """Run a coroutine of the program's. The cluster ends after it, except by a stop."""
        task = self.loop.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._task_done)
        return task

    def _task_done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        self._end_if_idle()

    def on(
        self, event: str, *, once: bool = False
    ) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
        """Return a decorator for a handler of an event."""
        return self.emitter.on(event, once=once)

    def off(self, event: str, handler: Callable[..., Any]) -> None:
        """Call a handler no more."""
        self.emitter.off(event, handler)

    def broadcast(self, message: Any, *, everywhere: bool = False) -> bool:
        """Send every worker a message; False when one of them is slow to read."""
        if everywhere:
            return self._all_machines().publish(encode(message))
        return self._send_all(Frame(Kind.MESSAGE, encode(message)))

    def _all_machines(self) -> "Everywhere":
        from sdcluster.everywhere import Everywhere

        if self._everywhere is None:
            self._everywhere = Everywhere(self._config().name)
        return self._everywhere

    def _send_all(self, frame: Frame) -> bool:
        sent = [one._send(frame) for one in self.workers.values() if one.is_connected]
        return all(sent)

    def on_request(self, handler: Callable[..., Any]) -> Callable[..., Any]:
        """Answer the requests of workers with what a handler returns."""
        self._answerer = handler
        return handler

    def every(self, seconds: float, function: Callable[[], Any]) -> None:
        """Call a function every so many seconds, for as long as the cluster runs."""
        Repeating(seconds, function, start=self.start).begin(self.loop)

    def _stop(self) -> None:
        manual, children, openings = self._machinery()
        at_once = manual.stopping
        if self._bulletin is not None:
            self._bulletin.stops()
        if not at_once:
            openings.stop()
            for child in children.workers.values():
                child.channel.finish()
        for worker in self.workers.values():
            worker.exited_after_disconnect = True
        self.feed(ev.StopRequested(at_once=at_once))

    def disconnect(self) -> "asyncio.Future[None]":
        """Have every worker leave. What is returned is done when they have left."""
        self._check_open()
        done: asyncio.Future[None] = self.loop.create_future()
        self._farewells.append((set(self.workers), done))
        for worker in list(self.workers.values()):
            worker.disconnect()
        self._soon(self._say_farewell)
        return done

    def _say_farewell(self) -> None:
        """Tell those who wait for workers to leave when all of these are gone."""
        for waited, done in list(self._farewells):
            if not waited & self.workers.keys():
                self._farewells.remove((waited, done))
                if not done.done():
                    done.set_result(None)

    def kill(self, worker: Worker, number: signal.Signals) -> None:
        """Send a worker a signal, by the program's wish."""
        if worker.is_dead:
            return
        worker._signals.add(number.name)
        child = self._machinery()[1].workers.get(worker.id)
        if child is None or (worker.state == "none" and number is not signal.SIGKILL):
            worker._early_signals.append(number)
        else:
            child.kill(number)

    def _send_early_signals(self, worker: Worker) -> None:
        signals, worker._early_signals = worker._early_signals, []
        for number in signals:
            self.kill(worker, number)

    # The machinery.

    def _start_machinery(self) -> None:
        if self._manual is not None:
            return
        passed = take_listen_fds()  # Before a descriptor is opened in the place of one missing.
        self._bulletin = Bulletin(
            ServiceManager(),
            self._events_loop,
            lambda: [worker.state for worker in self.workers.values()],
        )
        process.become_subreaper()
        config = self._config()
        self._is_shared = config.scheduling == "shared"
        journal = Journal(config.name)
        self._manual = Manual(drain_timeout_s=config.drain_timeout_s)
        self._openings = Openings(
            self._events_loop,
            passed,
            on_exhausted=lambda error: journal.write(
                EventKind.ACCEPT_PAUSED, f"cannot accept: {reason_of(error)}"
            ),
        )
        self._children = Children(
            loop=self._events_loop,
            journal=journal,
            report=self._report,
            on_room=lambda: None,
            on_gone=self._child_gone,
            spare_others=True,
        )
        self.loop.add_signal_handler(signal.SIGCHLD, self._children.reap)

    def _machinery(self) -> tuple[Manual, Children, Openings]:
        assert self._manual is not None
        assert self._children is not None
        assert self._openings is not None
        return self._manual, self._children, self._openings

    def _config(self) -> Config:
        script = self.settings.get("script") or _own_script()
        wanted = self.settings.get("scheduling") or os.environ.get(SCHEDULING_VARIABLE)
        scheduling = _check_scheduling(wanted) if wanted else "round-robin"
        return Config(
            name=Path(script[1] if script[0] == "-m" else script[0]).stem,
            source="setup_master",
            script=tuple(script) + tuple(self.settings.get("args", sys.argv[1:])),
            interpreter_options=_interpreter_options(),
            directory=Path(self.settings.get("cwd", ".")).absolute(),
            listen=(),
            listen_given=False,
            workers=cpus.usable(),
            ready_workers=1,
            scheduling=scheduling,
            heartbeat_timeout_s=0,
            drain_timeout_s=float(self.settings.get("drain_timeout_s", 30.0)),
        )

    def _report(self, event: ev.Event) -> None:
        """Take a finding of the children's."""
        if isinstance(event, ev.WorkerStopping) and event.worker in self.workers:
            self.workers[event.worker].exited_after_disconnect = True
        self.feed(event)

    def feed(self, event: Event) -> None:
        """Tell the policy what happened and do what it says."""
        manual, _, _ = self._machinery()
        self._queue.append(event)
        if self._feeding:
            return
        self._feeding = True
        try:
            while self._queue:
                for action in manual.handle(self._queue.pop(0), self._events_loop.time()):
                    self._perform(action)
        finally:
            self._feeding = False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        deadline = manual.deadline()
        if deadline is not None:
            self._timer = self._events_loop.call_at(deadline, lambda: self.feed(ev.TimePassed()))

    def _perform(self, action: act.Action | Announce) -> None:
        _, children, openings = self._machinery()
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
        _, children, _ = self._machinery()
        try:
            children.start_mold(self._config(), generation, listener_names=())
        except SpawnError as error:
            self.feed(ev.MoldFailed(generation, str(error)))

    def _spawn(self, number: WorkerId, slot: Slot, generation: Generation) -> None:
        _, children, _ = self._machinery()
        worker = self.workers[number]
        try:
            children.spawn(
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
        worker.state = told.stage.value
        arguments: tuple[Any, ...] = ()
        match told.stage:
            case Stage.FORKED:
                event = "fork"
            case Stage.ONLINE:
                event = "online"
                worker.pid = self._machinery()[1].workers[worker.id].pid
                self._soon(self._send_early_signals, worker)
            case Stage.DISCONNECTED:
                event = "disconnect"
            case Stage.DEAD:
                event, arguments = "exit", self._bury(worker, told)
        self._emit(worker, event, *arguments)
        self._tell_manager()
        if told.stage is Stage.ONLINE:
            self._take_early(worker)
        if told.stage is Stage.DEAD:
            self._soon(self._say_farewell)
            self._soon(self._end_if_idle)

    def _tell_manager(self) -> None:
        if self._ran and self._bulletin is not None:
            self._bulletin.changed()

    def _emit(self, worker: Worker, event: str, *arguments: Any) -> None:
        """Tell those who hear the worker, and those who hear all; never within a call of theirs."""
        if event != "fork":
            self._soon(worker._emitter.emit, event, *arguments)
        self._soon(self.emitter.emit, event, worker, *arguments)

    def _bury(self, worker: Worker, told: Announce) -> tuple[int | None, str | None]:
        code, number = worker._ending
        worker.exit_reason = told.reason
        if number in worker._signals and not worker.exited_after_disconnect:
            worker.exit_reason = ExitReason.KILLED
        del self.workers[worker.id]
        self._machinery()[2].gone(worker.id)
        worker._settle()
        if told.reason in (ExitReason.CRASH, ExitReason.BOOT_FAILED) and self._bulletin is not None:
            self._bulletin.crashed()
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

    # What workers say.

    def received(self, worker: Worker, frame: Frame, descriptors: list[int]) -> None:
        """Take a frame from a worker. Raises `ProtocolError`, which ends that one."""
        if worker.state == Stage.FORKED:
            # It is online first, as another channel will tell.
            worker._early_frames.append((frame, descriptors))
        else:
            self._take(worker, frame, descriptors)

    def _take_early(self, worker: Worker) -> None:
        frames, worker._early_frames = worker._early_frames, []
        try:
            for frame, descriptors in frames:
                self._take(worker, frame, descriptors)
        except ProtocolError as error:
            for _, descriptors in frames:
                close_all(descriptors)
            self.channel_ended(worker, str(error))

    def _take(self, worker: Worker, frame: Frame, descriptors: list[int]) -> None:
        match frame.kind:
            case Kind.MESSAGE if frame.peer == ALL:
                with contextlib.suppress(ClusterError):  # One that does not read has enough.
                    self._send_all(Frame(Kind.MESSAGE, frame.body))
            case Kind.MESSAGE:
                message = decode(frame.body)
                connection = attachment.received(descriptors)
                self._soon(self._tell_message, worker, message, connection)
            case Kind.REQUEST:
                message = decode(frame.body)
                task = self.start(self._answer(worker, frame.number, message))
                worker._answers.add(task)
                task.add_done_callback(worker._answers.discard)
            case Kind.REPLY | Kind.ERROR:
                worker._requests.settle(frame, [])
            case Kind.LISTEN:
                self._listen(worker, frame)
            case Kind.UNLISTEN:
                leaves = worker.state == Stage.DISCONNECTED
                self._machinery()[2].close(worker.id, _key(decode(frame.body)), leaves=leaves)
            case Kind.DISCONNECT:
                worker.exited_after_disconnect = True
                self.feed(KillWanted(WorkerId(worker.id)))
        close_all(descriptors)  # Those that nobody has taken out.

    def _tell_message(self, worker: Worker, message: Any, connection: socket.socket | None) -> None:
        """Tell those who hear the worker, and those who hear all; a connection is for them all."""
        told = [
            worker._emitter.offer("message", message, extra=connection),
            self.emitter.offer("message", worker, message, extra=connection),
        ]
        if connection is not None and not any(told):
            connection.close()

    async def _answer(self, worker: Worker, number: int, message: Any) -> None:
        reply = await requests.answer(self._answerer, number, worker, message)
        with contextlib.suppress(ClusterError):  # It is gone, or does not read.
            try:
                worker._send(reply)
            except ClusterError as error:
                worker._send(refusal(number, str(error)))

    def _listen(self, worker: Worker, frame: Frame) -> None:
        openings = self._machinery()[2]
        try:
            told, descriptors = openings.open(worker.id, decode(frame.body), shared=self._is_shared)
        except (ListenError, OSError) as error:
            if worker.state == Stage.DISCONNECTED:
                return  # It is about to be interrupted, and would take this for a failure.
            cause = error if isinstance(error, OSError) else error.__cause__
            number = cause.errno if isinstance(cause, OSError) and cause.errno else errno.EINVAL
            body = encode({"errno": number, "text": reason_of(error)})
            with contextlib.suppress(ClusterError):
                worker._send(Frame(Kind.ERROR, body, number=frame.number))
            return
        body = encode(told)
        reply = Frame(Kind.REPLY, body, number=frame.number, attached=len(descriptors))
        with contextlib.suppress(OSError):  # It is gone: its exit follows.
            worker._messenger.send(reply, descriptors)
        openings.given(worker.id, told["key"])
        if worker.state == Stage.DISCONNECTED:
            openings.retire(worker.id)
            return
        worker.state = "listening"
        self._tell_manager()
        name = told["name"]
        self._emit(worker, "listening", tuple(name) if isinstance(name, list) else name)

    def channel_ended(self, worker: Worker, reason: str) -> None:
        """A worker says nothing any more: it is dead, or has broken the protocol."""
        worker._requests.fail(f"worker {worker.id} is gone")
        if reason and not worker.is_dead:
            print(f"sdcluster: worker {worker.id} broke the protocol: {reason}", file=sys.stderr)
            self.kill(worker, signal.SIGKILL)

    # The end.

    def _end_if_idle(self) -> None:
        if self._ran and not self.workers and not self._tasks:
            self._end()

    def _end(self) -> None:
        if not self._ended.done():
            self._ended.set_result(None)

    def _close(self) -> None:
        _, children, openings = self._machinery()
        openings.close_all()
        children.close()
        if self._bulletin is not None:
            self._bulletin.close()
        self.loop.run_until_complete(self.loop.shutdown_asyncgens())
        self.loop.close()
        asyncio.set_event_loop(None)


def _own_script() -> list[str]:
    """Return what this process runs: FILE, or -m MODULE. Raises `ClusterError`."""
    main = sys.modules["__main__"]
    spec = getattr(main, "__spec__", None)
    if spec is not None and spec.name != "__main__":
        return ["-m", spec.name.removesuffix(".__main__")]
    path = getattr(main, "__file__", None) if spec is None else sys.argv[0]
    if not path or not os.path.exists(path):
        raise ClusterError("this program is no file that workers could run; name one: setup_master")
    return [os.path.abspath(path)]


def _interpreter_options() -> tuple[str, ...]:
    """Return the options of this interpreter, `-O` or `-X dev`, for those of the workers."""
    # Private, and what multiprocessing has for the same purpose.
    options: list[str] = subprocess._args_from_interpreter_flags()  # type: ignore[attr-defined]
    if getattr(sys.__stdout__, "write_through", False):
        options.append("-u")
    return tuple(options)


def _check_scheduling(wanted: str) -> Scheduling:
    for known in ("round-robin", "shared"):
        if wanted == known:
            return known
    raise ClusterError(f"there is no scheduling {wanted!r}; known are round-robin and shared")


def _key(value: Any) -> int:
    if not isinstance(value, int):
        raise ProtocolError("a listener that makes no sense")
    return value
