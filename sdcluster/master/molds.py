"""The molds: one process a generation, which has loaded the app and forks its workers.

The master execs it with the app's interpreter, environment and directory, and speaks to it over
the mold channel (`wire.frames`).
"""

import importlib.util
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from sdcluster.config import Config, python
from sdcluster.errors import ProtocolError, SpawnError, reason_of
from sdcluster.master.systemd import PRIVATE_ENVIRONMENT
from sdcluster.wire import frames

BOOTSTRAP = Path(__file__).parent.parent / "worker" / "bootstrap.py"

_ENGINE_MODULES = ("uvicorn", "h11", "click", "httptools", "uvloop", "a2wsgi", "websockets")
_TITLE_ROOM = " " * 96
"""An argument that makes room for the process title, see `process.set_title`."""


class Mold:
    """A generation's mold, as the master reaches it."""

    def __init__(
        self,
        config: Config,
        generation: int,
        *,
        listener_names: Sequence[str],
        trial: bool = False,
    ) -> None:
        """Start the process and have it load the app. Raises `SpawnError`.

        A `trial` imports the app even when the config leaves that to the workers.
        """
        self.config = config
        self.generation = generation
        self.pending: set[int] = set()
        """Workers ordered and not yet reported."""
        self.exited = False
        """It was reaped: its pid may be somebody else's."""
        try:
            self._ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        except OSError as error:
            raise SpawnError(f"cannot start a process: {reason_of(error)}") from error
        self._ours.setblocking(False)
        with theirs:
            try:
                self.pid = self._exec(theirs.fileno())
                self._ours.send(frames.encode(self._prepare(listener_names, trial)))
            except (OSError, ProtocolError) as error:
                self._ours.close()
                what = f"cannot execute {python(config)}: {reason_of(error)}"
                raise SpawnError(what) from error

    def _exec(self, channel_fd: int) -> int:
        process = subprocess.Popen(
            [python(self.config), str(BOOTSTRAP), str(channel_fd), _TITLE_ROOM],
            cwd=self.config.directory,
            env=_environment(self.config),
            stdin=subprocess.DEVNULL,
            pass_fds=[channel_fd],
        )
        process.returncode = 0  # Reaped by the cluster, with every other child.
        return process.pid

    def _prepare(self, listener_names: Sequence[str], trial: bool) -> frames.Prepare:
        config = self.config
        return frames.Prepare(
            name=config.name,
            generation=self.generation,
            app=config.app,
            interface="exec" if config.is_command else config.interface,
            command=config.exec,
            exec_ready=config.exec_ready,
            preload=config.preload,
            trial=trial,
            threads=config.threads,
            access_log=config.access_log,
            forwarded_allow_ips=config.forwarded_allow_ips,
            root_path=config.root_path,
            max_connections=config.max_connections,
            heartbeat_interval_s=heartbeat_interval_s(config),
            drain_timeout_s=config.drain_timeout_s,
            track_requests=config.request_timeout_s > 0,
            engine_path=_engine_path(),
            engine_python=f"{sys.version_info.major}.{sys.version_info.minor}",
            listener_names=tuple(listener_names),
        )

    def fileno(self) -> int:
        """Return the descriptor to watch for reports."""
        return self._ours.fileno()

    def fork(self, order: frames.Fork, descriptors: Sequence[int]) -> None:
        """Order a worker. Raises OSError when the mold does not take orders as fast as they come.

        A mold that has died takes the order too: what is pending fails when it is reaped, which
        tells the true reason.
        """
        try:
            socket.send_fds(self._ours, [frames.encode(order)], list(descriptors))
        except (BrokenPipeError, ConnectionResetError):
            pass
        self.pending.add(order.worker)

    def read(self) -> frames.Report | None:
        """Return the next report; None when there is none.

        Raises `ProtocolError`, and EOFError when the process has closed its end.
        """
        try:
            data = self._ours.recv(frames.MAX_FRAME_BYTES + 1)
        except BlockingIOError:
            return None
        except ConnectionResetError:
            data = b""
        if not data:
            raise EOFError
        report = frames.decode_report(data)
        if isinstance(report, (frames.Forked, frames.ForkFailed)):
            if report.worker not in self.pending:
                raise ProtocolError(f"the mold reports worker {report.worker}, not ordered")
            self.pending.discard(report.worker)
        return report

    def kill(self, number: signal.Signals) -> None:
        """Send a signal to the process. Harmless once it has exited."""
        if not self.exited:
            send_signal(self.pid, number)  # Not reaped yet, so the pid is still its own.

    def retire(self) -> None:
        """Let the mold go: it forks what was ordered, reports it, and exits."""
        try:
            self._ours.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # Dead already.

    def close(self) -> None:
        """Release the channel."""
        self._ours.close()


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


def _environment(config: Config) -> dict[str, str]:
    """Return the environment of a generation, captured when it starts."""
    environment = {
        name: value for name, value in os.environ.items() if name not in PRIVATE_ENVIRONMENT
    }
    if config.venv is not None:
        environment["VIRTUAL_ENV"] = str(config.venv)
        path = environment.get("PATH", os.defpath)
        environment["PATH"] = f"{config.venv / 'bin'}{os.pathsep}{path}"
        environment.pop("PYTHONHOME", None)
    return environment | dict(config.environment)


def _engine_path() -> tuple[str, ...]:
    """Return the folders that hold the HTTP engine of the master's own environment."""
    folders: dict[str, None] = {}
    for name in _ENGINE_MODULES:
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.origin is not None:
            origin = Path(spec.origin)
            folder = origin.parent.parent if spec.submodule_search_locations else origin.parent
            folders[str(folder)] = None
    return tuple(folders)
