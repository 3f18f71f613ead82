"""The molds: one process a generation, which has loaded the app and forks its workers.

The master has it load the app in the app's interpreter, environment and directory, and speaks to
it over the mold channel (`wire.frames`).
"""

import errno
import importlib.util
import os
import pwd
import signal
import socket
import sys
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sdcluster.config.model import Config, python
from sdcluster.errors import ProtocolError, SpawnError, reason_of
from sdcluster.master.host import closing
from sdcluster.master.processes import interpreter
from sdcluster.master.processes.secret import cookie_secret
from sdcluster.system.descriptors import duplicates, look
from sdcluster.wire import frames

MAX_UNANSWERED = 64
"""Workers that a mold is told to fork before it has answered.

Their orders surely fit in its channel. The kernel counts a frame, however small, as nearly a
kilobyte of the sender's buffer, and limits the descriptors on their way as well, see unix(7).
"""

_SOME = 2
"""Descriptors, of which none should come."""
_TRY_LATER = frozenset({errno.EAGAIN, errno.ENOBUFS, errno.ETOOMANYREFS})
"""What sendmsg(2) says that ends when the mold has read; a machine without memory fails orders."""


class Mold:
    """A generation's mold, as the master reaches it."""

    def __init__(
        self,
        config: Config,
        generation: int,
        *,
        listener_names: Sequence[str],
        trial: bool = False,
        user: pwd.struct_passwd | None = None,
    ) -> None:
        """Start the process and have it load the app. Raises `SpawnError`.

        A `trial` imports the app even when the config leaves that to the workers. The process runs
        as `user`, if one is given, which takes root.
        """
        self.config = config
        self.generation = generation
        self.prepared = False
        """It has said that it can fork workers."""
        self._has_loaded = False
        """It has said that, or why it cannot."""
        self.unanswered: set[int] = set()
        """Workers that the mold was told to fork, and has not reported."""
        self._queue: deque[_QueuedOrder] = deque()
        self._retired = False
        self.exited = False
        """It was reaped: its pid may be somebody else's."""
        process = interpreter.start(config, user)
        self.pid, self._ours = process.pid, process.channel
        try:
            self._ours.send(frames.encode(self._prepare(listener_names, trial)))
        except (BrokenPipeError, ConnectionResetError):
            pass  # It has died; why, is told when it is reaped.
        except (OSError, ProtocolError) as error:
            self._ours.close()
            what = f"cannot execute {python(config)}: {reason_of(error)}"
            raise SpawnError(what) from error

    def _prepare(self, listener_names: Sequence[str], trial: bool) -> frames.Prepare:
        config = self.config
        return frames.Prepare(
            name=config.name,
            generation=self.generation,
            app=config.app,
            agent=config.agent,
            interface=_interface(config),
            command=config.exec,
            script=config.script,
            script_folder=config.script_folder,
            exec_ready=config.exec_ready,
            preload=config.preload,
            trial=trial,
            threads=config.threads,
            access_log=config.access_log,
            forwarded_allow_ips=config.forwarded_allow_ips,
            root_path=config.root_path,
            max_connections=config.max_connections,
            crash_recovery=config.crash_recovery,
            replay=config.replay,
            replay_max_kb=config.replay_max_kb,
            handoff_timeout_s=config.handoff_timeout_s,
            **_routing(config, trial=trial),
            heartbeat_interval_s=heartbeat_interval_s(config),
            drain_timeout_s=config.drain_timeout_s,
            track_requests=config.request_timeout_s > 0,
            track_latency=config.scheduling == "least-latency" or config.rebalance,
            engine_path=_engine_path(),
            engine_python=f"{sys.version_info.major}.{sys.version_info.minor}",
            listener_names=tuple(listener_names),
        )

    def fileno(self) -> int:
        """Return the descriptor to watch for reports."""
        return self._ours.fileno()

    def fork(self, order: frames.Fork, descriptors: Sequence[int]) -> None:
        """Order a worker: at once, or when the mold has answered enough of the orders before.

        Raises OSError when there is no room for the order. A mold that has died takes it too: what
        is pending fails when it is reaped, which tells the true reason.
        """
        if self._queue or not self._send(order, descriptors):
            self._queue.append(_QueuedOrder(order, duplicates(descriptors)))

    def send_queued(self) -> list[frames.ForkFailed]:
        """Send what waited for answers, as far as it may be sent. Return what never can be."""
        failed = []
        while self._queue:
            order = self._queue[0].order
            try:
                if not self._send(order, self._queue[0].descriptors):
                    break
            except OSError as error:
                reason = f"cannot start a process: {error.strerror}"
                failed.append(frames.ForkFailed(worker=order.worker, reason=reason))
            self._queue.popleft().close()
        self._end_if_retired()
        return failed

    def _send(self, order: frames.Fork, descriptors: Sequence[int]) -> bool:
        """Send an order; False when there is room for it after the next answer. Raises OSError."""
        if len(self.unanswered) >= MAX_UNANSWERED:
            return False
        try:
            socket.send_fds(self._ours, [frames.encode(order)], list(descriptors))
        except (BrokenPipeError, ConnectionResetError):
            pass  # What is pending fails soon.
        except OSError as error:
            if error.errno in _TRY_LATER and self.unanswered:
                return False
            raise
        self.unanswered.add(order.worker)
        return True

    @property
    def pending(self) -> list[int]:
        """Workers ordered and not reported, whether the mold was sent the order or not."""
        return [*self.unanswered, *(queued.order.worker for queued in self._queue)]

    def read(self) -> frames.Report | None:
        """Return the next report; None when there is none, or when it is closed.

        Raises `ProtocolError`, and EOFError when the process has closed its end.
        """
        if self._ours.fileno() < 0:
            return None  # The loop had seen that there is something, before the process was reaped.
        try:
            frame = look(self._ours, frames.MAX_FRAME_BYTES + 1, most=_SOME)
            self._ours.recv(1)  # The whole frame: what does not fit is dropped.
        except BlockingIOError:
            return None
        except ConnectionResetError:
            return self.read()  # It died with orders unread; told once, before its last reports.
        except OSError as error:
            raise ProtocolError("it sends descriptors") from error  # There was no room for them.
        if frame.fds:
            closing.close(frame.fds)
            raise ProtocolError("it sends descriptors")
        if not frame.data:
            raise EOFError
        report = frames.decode_report(frame.data)
        if isinstance(report, (frames.Forked, frames.ForkFailed)):
            if report.worker not in self.unanswered:
                raise ProtocolError(f"the mold reports worker {report.worker}, not ordered")
            self.unanswered.discard(report.worker)
        elif self._has_loaded:
            raise ProtocolError(f"a second {type(report).__name__}")
        else:
            self._has_loaded = True
            self.prepared = isinstance(report, frames.Prepared)
        return report

    def kill(self, number: signal.Signals) -> None:
        """Send a signal to the process. Harmless once it has exited."""
        if not self.exited:
            send_signal(self.pid, number)  # Not reaped yet, so the pid is still its own.

    def retire(self) -> None:
        """Let the mold go: it forks what was ordered, reports it, and exits."""
        self._retired = True
        self._end_if_retired()

    def _end_if_retired(self) -> None:
        if not self._retired or self._queue:
            return
        try:
            self._ours.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # Dead already.

    def close(self) -> None:
        """Release the channel, and the orders that were not sent."""
        while self._queue:
            self._queue.popleft().close()
        closing.close_socket(self._ours)


@dataclass(frozen=True, slots=True)
class _QueuedOrder:
    """An order that waits, with descriptors of its own: the originals may be closed by then."""

    order: frames.Fork
    descriptors: list[int]

    def close(self) -> None:
        closing.close(self.descriptors)


def _interface(config: Config) -> str:
    if config.script:
        return "script"
    return "exec" if config.is_command else config.interface


def send_signal(pid: int, number: signal.Signals) -> None:
    """Send a signal to a child. One that is gone, or has changed its user, is left alone."""
    try:
        os.kill(pid, number)
    except (ProcessLookupError, PermissionError):
        pass  # A program that has another user now is ended by systemd, not by us: kill(2).


def heartbeat_interval_s(config: Config) -> float:
    """Return how often a worker's event loop shows that it turns, in seconds."""
    if config.heartbeat_timeout_s <= 0:
        return 1.0
    return min(1.0, config.heartbeat_timeout_s / 4)


def _routing(config: Config, *, trial: bool) -> dict[str, Any]:
    """Return the fields of `Prepare` that say which worker a request is for.

    A trial has no secret: nobody is to be served.
    """
    fields: dict[str, Any] = {}
    if config.sticky is not None:
        fields["sticky"] = config.sticky.by
        if config.sticky.by == "cookie":
            fields["cookie_name"] = config.sticky.name
            fields["cookie_attributes"] = config.sticky.attributes()
            fields["cookie_secure"] = config.sticky.secure
            fields["cookie_secret"] = "" if trial else cookie_secret(config.name)
    if config.shard is not None:
        fields["shard_by"] = config.shard.by
        fields["shard_function"] = config.shard.function
    if config.proxy_protocol:
        fields["proxies"] = config.proxy_allow_ips
    return fields


def _engine_path() -> tuple[str, ...]:
    """Return the folders that hold the HTTP engine and the cache's of the master's environment."""
    folders: dict[str, None] = {}
    for name in (*frames.ENGINE_PACKAGES, *frames.CACHE_PACKAGES):
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.origin is not None:
            origin = Path(spec.origin)
            folder = origin.parent.parent if spec.submodule_search_locations else origin.parent
            folders[str(folder)] = None
    return tuple(folders)
