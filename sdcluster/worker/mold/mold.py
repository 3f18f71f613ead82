"""The mold: loads the app once, stays single-threaded, and forks a worker whenever it is told to.

A worker is forked twice, so that it is no child of the mold's: its parent in between exits, and
the master, being a subreaper, becomes its parent.
"""

import contextlib
import faulthandler
import gc
import os
import signal
import socket
import sys
import traceback
from collections.abc import Sequence
from typing import Any, NoReturn, cast

from sdcluster.errors import AppError, ProtocolError, reason_of
from sdcluster.system.process import Label
from sdcluster.wire import frames
from sdcluster.worker.host import engine, forking, limits, loader, logs
from sdcluster.worker.messages import side
from sdcluster.worker.mold import roles
from sdcluster.worker.mold.orders import Orders, decode
from sdcluster.worker.mold.safety import Safety
from sdcluster.worker.service.service import ServiceMember


def main(channel_fd: int, *, is_early: bool = False) -> NoReturn:
    """Serve the master on the channel until it ends.

    `is_early` says that it may take a while until there is an order, to load an app.
    """
    os.set_inheritable(channel_fd, False)
    os.setsid()  # What a terminal sends to its processes is for the master alone.
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)
    faulthandler.enable()
    channel = socket.socket(fileno=channel_fd)
    if is_early:
        engine.import_own()
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
        self._collects = True
        """Whether the garbage collector is to run, as far as the app has had a say."""

    def run(self) -> None:
        with contextlib.suppress(OSError):  # The master is gone.
            try:
                self._load()
                orders, safety = self._prepare_orders()
            except AppError as error:
                self._fail(error)
                return
            gc.collect()
            gc.freeze()  # Else the collector would write to, and so copy, the shared pages.
            self._collects = gc.isenabled()
            gc.disable()  # Nor may it run between what is done before a fork, and after it.
            self._channel.send(frames.encode(frames.Prepared(interface=self._interface)))
            self._serve(orders, safety)

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
            self._app, self._interface = roles.load_app(prepare)
            limits.require_descriptors(like=self._channel.fileno())
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

    def _prepare_orders(self) -> tuple[Orders, Safety | None]:
        """Return what orders are carried out with. Raises `AppError`."""
        try:
            orders = Orders(self._channel)
        except OSError as error:
            raise AppError(f"cannot share memory with workers: {reason_of(error)}") from error
        is_python = self._interface in ("asgi", "wsgi")
        return orders, Safety(self._prepare) if is_python else None

    def _fail(self, error: AppError) -> None:
        detail = error.detail[-frames.MAX_DETAIL_CHARS :]
        report = frames.PrepareFailed(reason=str(error)[:4096], detail=detail)
        self._channel.send(frames.encode(report))

    def _serve(self, orders: Orders, safety: Safety | None) -> None:
        """Have each order carried out. Raises OSError when the master is gone.

        Here no more is done than must be: see `orders`.
        """
        while orders.wait():
            try:
                between = forking.fork()
            except OSError as error:
                orders.fail(f"cannot fork: {reason_of(error)}")
                continue
            if between == 0:
                self._carry_out(orders, safety)
            status = _wait(between)
            if not orders.pass_on():
                ending = f"the process between mold and worker ended{_ending(status)}"
                orders.fail(f"cannot fork: {ending}")

    def _carry_out(self, orders: Orders, safety: Safety | None) -> NoReturn:
        """Fork a worker, in the process in between, which says who that is and exits."""
        try:
            report: frames.Report
            try:
                pid = self._fork_worker(orders, safety)
            except OSError as error:
                reason = f"cannot fork: {reason_of(error)}"
                report = frames.ForkFailed(worker=orders.order().worker, reason=reason)
            else:
                report = frames.Forked(worker=orders.order().worker, pid=pid)
            orders.answer(report)
            os._exit(0)
        except BaseException:
            _exit_with_traceback()  # Whatever happens: there is one mold.

    def _fork_worker(self, orders: Orders, safety: Safety | None) -> int:
        """Return the pid of a worker. Raises OSError."""
        data, descriptors = orders.take()
        if frames.is_for_agent(data):
            safety = None
        if safety is not None:
            safety.prepare()
        forking.begin()
        try:
            pid = forking.fork()
            if pid == 0:
                self._be_forked(orders, data, descriptors, safety)
        finally:
            forking.end_in_parent()
        return pid

    def _be_forked(
        self, orders: Orders, data: bytes, descriptors: Sequence[int], safety: Safety | None
    ) -> NoReturn:
        """Be the worker, or the agent."""
        try:
            if safety is not None:
                safety.start(descriptors[0])
            orders.close()
            forking.end_in_child()
            if self._collects:
                gc.enable()
            roles.run_worker(
                self._app,
                self._interface,
                self._prepare,
                decode(data),
                descriptors,
                safety,
                master=self._master,
            )
        except BaseException:
            _exit_with_traceback()


def _exit_with_traceback() -> NoReturn:
    try:
        traceback.print_exc()
    finally:
        os._exit(roles.EXIT_APP)


def _wait(pid: int) -> int | None:
    """Wait for the end of a child, and return its status; None when that is not known."""
    while True:
        try:
            return os.waitpid(pid, 0)[1]
        except ChildProcessError:
            # The app ignores SIGCHLD, or it has a handler, and the error is of that.
            try:
                os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:
                return None


def _ending(status: int | None) -> str:
    if status is None:
        return ""
    code = os.waitstatus_to_exitcode(status)
    if code >= 0:
        return f": exit status {code}"
    return f": {signal.strsignal(-code) or f'signal {-code}'}"
