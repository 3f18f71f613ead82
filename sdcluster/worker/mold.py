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

from sdcluster import side
from sdcluster.errors import AppError, ProtocolError, reason_of
from sdcluster.process import Label
from sdcluster.wire import frames
from sdcluster.worker import engine, forking, loader, logs, roles
from sdcluster.worker.orders import Orders
from sdcluster.worker.safety import Safety
from sdcluster.worker.service import ServiceMember


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
            orders = Orders(self._channel)
            self._serve(orders, Safety(self._prepare) if self._is_python() else None)

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

    def _is_python(self) -> bool:
        return self._interface in ("asgi", "wsgi")

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
                ending = f"the process between mold and worker ended: {_ending(status)}"
                orders.fail(f"cannot fork: {ending}")

    def _carry_out(self, orders: Orders, safety: Safety | None) -> NoReturn:
        """Fork a worker, in the process in between, which says who that is and exits."""
        try:
            data, descriptors = orders.take()
            if frames.is_for_agent(data):
                safety = None
            reason = ""
            try:
                if safety is not None:
                    safety.prepare()
                pid = forking.fork()
            except OSError as error:
                pid, reason = -1, f"cannot fork: {reason_of(error)}"
            if pid == 0:
                self._be_forked(data, descriptors, safety)
            order = _decode(data)
            orders.answer(
                frames.ForkFailed(worker=order.worker, reason=reason)
                if reason
                else frames.Forked(worker=order.worker, pid=pid)
            )
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(roles.EXIT_APP)  # Whatever happens: there is one mold.

    def _be_forked(
        self, data: bytes, descriptors: Sequence[int], safety: Safety | None
    ) -> NoReturn:
        """Be the worker, or the agent."""
        if safety is not None:
            safety.start(descriptors[0])
        forking.go_on()
        self._channel.close()
        roles.run_worker(
            self._app,
            self._interface,
            self._prepare,
            _decode(data),
            descriptors,
            safety,
            master=self._master,
        )


def _decode(data: bytes) -> frames.Fork:
    order = frames.decode_order(data)
    assert isinstance(order, frames.Fork)
    return order


def _wait(pid: int) -> int:
    """Wait for the end of a child and return its status, see wait(2)."""
    try:
        return os.waitpid(pid, 0)[1]
    except ChildProcessError:
        return 0  # The app ignores SIGCHLD: the kernel forgets it when it has ended.


def _ending(status: int) -> str:
    code = os.waitstatus_to_exitcode(status)
    return signal.strsignal(-code) or f"signal {-code}" if code < 0 else f"exit status {code}"
