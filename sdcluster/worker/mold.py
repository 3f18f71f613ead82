"""The mold: loads the app once, stays single-threaded, and forks a worker whenever it is told to.

A worker is forked twice, so that it is no child of the mold's: its parent in between exits, and
the master, being a subreaper, becomes its parent.
"""

import asyncio
import contextlib
import errno
import faulthandler
import functools
import gc
import logging
import mmap
import os
import signal
import socket
import sys
import traceback
from collections.abc import Sequence
from typing import Any, Literal, NoReturn, cast

from sdcluster import side
from sdcluster.descriptors import attached, space
from sdcluster.errors import AppError, ProtocolError, reason_of
from sdcluster.process import Label
from sdcluster.wire import frames
from sdcluster.wire.scoreboard import SIZE_BYTES, Field, Scoreboard
from sdcluster.worker import agent, command, engine, forking, loader, logs, routing, script, server
from sdcluster.worker.intake import tell
from sdcluster.worker.keeper import Keeper, Keeping
from sdcluster.worker.ledger import Ledger
from sdcluster.worker.service import ServiceMember

MAX_DESCRIPTORS = 250
EXIT_APP = 1
"""The exit status of a worker whose app does not start."""


def main(channel_fd: int) -> NoReturn:
    """Serve the master on the channel until it ends."""
    os.set_inheritable(channel_fd, False)
    os.setsid()  # What a terminal sends to its processes is for the master alone.
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)
    faulthandler.enable()
    channel = socket.socket(fileno=channel_fd)
    prepare = _receive_prepare(channel)
    Label(f"sdcluster: mold {prepare.name} gen {prepare.generation}", "sdcluster:mold").show()
    _Mold(channel, prepare).run()
    sys.stdout.flush()
    os._exit(0)


def _receive_prepare(channel: socket.socket) -> frames.Prepare:
    """Return the first frame; end the process when it is of another version of the master."""
    try:
        prepare = frames.decode_order(channel.recv(frames.MAX_FRAME_BYTES + 1))
    except ProtocolError as error:
        with contextlib.suppress(OSError):  # The master is gone.
            channel.send(frames.encode(frames.PrepareFailed(reason=str(error))))
        os._exit(0)
    assert isinstance(prepare, frames.Prepare)
    return prepare


class _Mold:
    def __init__(self, channel: socket.socket, prepare: frames.Prepare) -> None:
        self._channel = channel
        self._prepare = prepare
        self._interface: frames.Interface = "exec"
        self._app: Any = None
        self._master = os.getppid()

    def run(self) -> None:
        with contextlib.suppress(OSError):  # The master is gone.
            try:
                self._load()
            except AppError as error:
                self._fail(error)
                return
            gc.collect()
            gc.freeze()  # Else the collector would write to, and so copy, the shared pages.
            self._channel.send(frames.encode(frames.Prepared(interface=self._interface)))
            while self._serve_one():
                pass

    def _load(self) -> None:
        prepare = self._prepare
        if prepare.interface in ("exec", "script"):
            self._interface = cast(frames.Interface, prepare.interface)
            return
        logs.set_up(
            {"SDCLUSTER_INSTANCE": prepare.name, "SDCLUSTER_GENERATION": str(prepare.generation)},
            f"sdcluster[{prepare.name}] mold",
            access_log=False,
        )
        engine.find(prepare)
        side.member = ServiceMember(has_agent=bool(prepare.agent))  # The app may add its handlers.
        if prepare.preload or prepare.trial:
            self._app, self._interface = load_app(prepare)
            for target, what in ((prepare.agent, "agent"), (prepare.shard_function, "shard")):
                if target:
                    loader.load_function(target, what)
            if prepare.preload and len(os.listdir("/proc/self/task")) > 1:
                raise AppError(
                    f"{prepare.app} starts a thread when it is imported, and a process with "
                    "threads cannot be forked; start it later, or set preload = false"
                )
        else:
            self._interface = cast(frames.Interface, prepare.interface)
            if prepare.interface == "auto":
                self._interface = "asgi"

    def _fail(self, error: AppError) -> None:
        detail = error.detail[-frames.MAX_DETAIL_CHARS :]
        report = frames.PrepareFailed(reason=str(error)[:4096], detail=detail)
        self._channel.send(frames.encode(report))

    def _serve_one(self) -> bool:
        """Carry one order out; False when there will be none."""
        data, descriptors = self._receive()
        if not data:
            return False
        order = frames.decode_order(data)
        assert isinstance(order, frames.Fork)
        report: frames.Report
        try:
            pid = self._fork(order, descriptors)
            report = frames.Forked(worker=order.worker, pid=pid)
        except OSError as error:
            reason = f"cannot fork: {reason_of(error)}"
            report = frames.ForkFailed(worker=order.worker, reason=reason)
        for fd in descriptors:
            os.close(fd)
        self._channel.send(frames.encode(report))
        return True

    def _receive(self) -> tuple[bytes, list[int]]:
        """Return a frame and its descriptors. `socket.recv_fds` ignores the flag."""
        room = space(MAX_DESCRIPTORS)
        data, ancillary, _, _ = self._channel.recvmsg(
            frames.MAX_FRAME_BYTES + 1, room, socket.MSG_CMSG_CLOEXEC
        )
        return data, attached(ancillary)

    def _fork(self, order: frames.Fork, descriptors: Sequence[int]) -> int:
        """Fork a worker and return its pid. Raises OSError."""
        if order.agent or self._interface not in ("asgi", "wsgi"):
            return self._fork_twice(order, descriptors, None)
        safety = _Safety(descriptors[0], self._prepare, order)
        try:
            return self._fork_twice(order, descriptors, safety)
        finally:
            safety.ledger.close()

    def _fork_twice(
        self, order: frames.Fork, descriptors: Sequence[int], safety: "_Safety | None"
    ) -> int:
        reader, writer = os.pipe()
        try:
            forking.begin()
            try:
                between = forking.fork()
                if between == 0:
                    self._fork_again(order, descriptors, (reader, writer), safety)
            finally:
                forking.end_in_parent()
            os.close(writer)
            writer = -1  # Else a process in between that is killed would leave us reading.
            _, status = os.waitpid(between, 0)
            told = os.read(reader, 8)
        finally:
            os.close(reader)
            if writer >= 0:
                os.close(writer)
        if not told:
            text = f"the process between mold and worker ended: {_ending(status)}"
            raise ChildProcessError(errno.ECHILD, text)
        answer = int.from_bytes(told, "little", signed=True)
        if answer < 0:
            raise OSError(-answer, os.strerror(-answer))
        return answer

    def _fork_again(
        self,
        order: frames.Fork,
        descriptors: Sequence[int],
        pipe: tuple[int, int],
        safety: "_Safety | None",
    ) -> NoReturn:
        """Fork the worker, in the process in between, which says who it is and exits."""
        try:
            try:
                pid = forking.fork()
            except OSError as error:
                pid = -(error.errno or 1)
            if pid == 0:
                if safety is not None:
                    safety.start()
                forking.end_in_child()
                for fd in pipe:
                    os.close(fd)
                self._channel.close()
                run_worker(
                    self._app,
                    self._interface,
                    self._prepare,
                    order,
                    descriptors,
                    safety,
                    master=self._master,
                )
            os.write(pipe[1], pid.to_bytes(8, "little", signed=True))
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(EXIT_APP)  # Whatever happens: there is one mold.


def _ending(status: int) -> str:
    code = os.waitstatus_to_exitcode(status)
    return signal.strsignal(-code) or f"signal {-code}" if code < 0 else f"exit status {code}"


def load_app(prepare: frames.Prepare) -> tuple[Any, Literal["asgi", "wsgi"]]:
    """Return the app and what it is. Raises `AppError`."""
    app = loader.load(prepare.app)
    if prepare.interface in ("asgi", "wsgi"):
        interface = cast(Literal["asgi", "wsgi"], prepare.interface)
    else:
        interface = loader.interface_of(app)
    if interface == "wsgi":
        engine.wsgi_middleware()
    return app, interface


def run_worker(
    app: Any,
    interface: str,
    prepare: frames.Prepare,
    order: frames.Fork,
    descriptors: Sequence[int],
    safety: "_Safety | None",
    *,
    master: int,
) -> NoReturn:
    """Be the worker, or the agent, in the child.

    `app` is None when it was not imported before the fork.
    """
    status = 0
    control = socket.socket(fileno=descriptors[0])
    try:
        _describe(prepare, order)
        if interface == "script":
            status = script.run(
                prepare.script,
                order,
                control,
                messages_fd=descriptors[2],
                drain_timeout_s=prepare.drain_timeout_s,
            )
        elif interface == "exec":
            command.execute(prepare, order, control, descriptors[2:], master=master)
        elif order.agent:
            _be_agent(prepare, control, descriptors)
        else:
            assert safety is not None
            _serve(app, interface, prepare, order, control, descriptors, safety)
    except AppError as error:
        if error.detail:
            sys.stderr.write(error.detail)
        tell(control, X_FAILED=str(error))
        status = EXIT_APP
    except SystemExit as error:
        status = error.code if isinstance(error.code, int) else EXIT_APP
    except BaseException as error:
        traceback.print_exc()
        tell(control, X_FAILED=traceback.format_exception_only(error)[-1])
        status = EXIT_APP
    finally:
        logging.shutdown()
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(status)


def _describe(prepare: frames.Prepare, order: frames.Fork) -> None:
    fields = {
        "SDCLUSTER_INSTANCE": prepare.name,
        "SDCLUSTER_SLOT": "agent" if order.agent else str(order.slot),
        "SDCLUSTER_WORKER": str(order.worker),
        "SDCLUSTER_GENERATION": str(prepare.generation),
    }
    os.environ.update(fields)
    for line in order.environment:
        name, _, value = line.partition("=")
        os.environ[name] = value
    what = "agent" if order.agent else f"worker {order.slot}"
    title = f"sdcluster: {what} {prepare.name} gen {prepare.generation}"
    Label(title, "sdcluster:agent" if order.agent else f"sdcluster:w{order.slot}").show()
    if prepare.script:
        return  # What it logs, and where, is all its own.
    who = f"sdcluster[{prepare.name}] {'agent' if order.agent else f'worker {order.worker}'}"
    logs.set_up(fields, who, access_log=prepare.access_log)


def _be_agent(prepare: frames.Prepare, control: socket.socket, descriptors: Sequence[int]) -> None:
    # While it is imported, as in a mold that preloads: the handlers of an app are its workers'.
    function = loader.load_function(prepare.agent, "agent")
    side.member, side.agent = None, agent.Agent()
    logs.promote()
    agent.serve(
        function,
        prepare,
        side.agent,
        control=control,
        messages=socket.socket(fileno=descriptors[2]),
        board=Scoreboard(mmap.mmap(descriptors[1], SIZE_BYTES)),
    )


def _serve(
    app: Any,
    interface: str,
    prepare: frames.Prepare,
    order: frames.Fork,
    control: socket.socket,
    descriptors: Sequence[int],
    safety: "_Safety",
) -> None:
    safety.tell(control)
    board = Scoreboard(mmap.mmap(descriptors[1], SIZE_BYTES))
    if app is None:
        app, interface = load_app(prepare)
        logs.promote()
    if interface == "wsgi":
        app = engine.wsgi_middleware()(app, workers=prepare.threads)
    key: routing.KeyFunction | None = None
    if prepare.shard_function:
        key = loader.load_function(prepare.shard_function, "shard")
    slots = functools.partial(board.__getitem__, Field.SLOTS)
    app = routing.routed(app, routing.rule(prepare, order.slot, key), slot=order.slot, slots=slots)
    messages = socket.socket(fileno=descriptors[2])
    listeners = [socket.socket(fileno=fd) for fd in descriptors[3:]]
    member = side.member
    assert isinstance(member, ServiceMember)

    def join(loop: asyncio.AbstractEventLoop) -> None:
        member.join(order.worker, order.slot, slots, messages, control, loop)

    server.serve(
        app,
        prepare,
        control=control,
        listeners=listeners,
        board=board,
        ledger=safety.ledger,
        keeper=safety.keeper,
        on_loop=join,
        flush=member.flush,
    )


class _Safety:
    """The ledger of a worker and what its keeper needs, made before the fork."""

    def __init__(self, control_fd: int, prepare: frames.Prepare, order: frames.Fork) -> None:
        """Raises OSError when there is no room for a ledger."""
        self.ledger = Ledger(prepare.replay_max_kb * 1024)
        self.keeper: Keeper | None = None
        self._keeping: Keeping | None = None
        self._failure: OSError | None = None
        if prepare.crash_recovery:
            title = f"sdcluster: keeper {order.slot} {prepare.name} gen {prepare.generation}"
            try:
                label = Label(title, f"sdcluster:k{order.slot}")
                self._keeping = Keeping(control_fd, self.ledger, label)
            except OSError as error:
                self._failure = error

    def start(self) -> None:
        """Start the keeper, in the worker, before anything else is done there."""
        if self._keeping is not None:
            try:
                self.keeper = self._keeping.start()
            except OSError as error:
                self._failure = error

    def tell(self, control: socket.socket) -> None:
        """Say which keeper there is, or why there is none."""
        if self.keeper is not None:
            tell(control, X_KEEPER=self.keeper.pid)
        elif self._failure is not None:
            logging.getLogger("sdcluster").warning(
                "cannot start a keeper: %s; when this worker dies, its connections end with it",
                reason_of(self._failure),
            )
