"""One start of a master: try after try, until a cluster has served, or the start has failed.

Each try reads the configuration anew and builds everything that depends on it, so whatever was
mended meanwhile counts. What outlives a try: the sockets that systemd passed, the control socket,
the loop, which hears the signals, and what is told to people.
"""

import contextlib
import errno
import random
import select
import socket
from collections.abc import Sequence
from dataclasses import dataclass

from sdcluster.config.model import Config
from sdcluster.core.starts import Start, State, origin
from sdcluster.errors import EX_SOFTWARE, ConfigError, ListenError
from sdcluster.master.connections.listeners import Listener, ListenerSet, address_text
from sdcluster.master.host.journal import Journal
from sdcluster.master.host.loop import Loop
from sdcluster.master.processes import interpreter
from sdcluster.master.service import control
from sdcluster.master.service.api import Api
from sdcluster.master.service.chronicle import Chronicle
from sdcluster.master.service.control import ControlServer
from sdcluster.master.service.estate import Estate
from sdcluster.master.service.instance import Instance
from sdcluster.master.service.last_failure import LastFailure
from sdcluster.master.service.service_cluster import Cluster
from sdcluster.master.service.start_wait import FileState, Waiting, file_state
from sdcluster.master.service.traffic import Traffic
from sdcluster.system import runtime
from sdcluster.system.descriptors import Borrowed


@dataclass(frozen=True, slots=True)
class _Failed:
    """A try that has failed."""

    reason: str
    refusal: ConfigError | ListenError | None = None
    """What kept it from being begun: only a person can mend that."""
    is_stopped: bool = False
    """It was told to stop as well."""


class Launch:
    """One start of an instance."""

    def __init__(
        self,
        instance: Instance,
        *,
        passed: Sequence[tuple[int, str]],
        estate: Estate,
        loop: Loop,
        journal: Journal,
        chronicle: Chronicle,
        is_service: bool,
    ) -> None:
        """`passed` are systemd's sockets; `is_service` says that a start may wait."""
        self._instance = instance
        self._estate = estate
        self._passed = passed
        self._loop = loop
        self._journal = journal
        self._chronicle = chronicle
        self._last_failure = LastFailure()
        self._control: Listener | None = None
        self._callers: list[socket.socket] = []
        """Connections to it of clients that wait for nothing, between one server and the next."""
        before = self._last_failure.read()
        self._start = Start(
            origin(
                is_service=is_service,
                last_failed_s_ago=before.age_s,
                mends_itself=before.mends_itself,
                client_waits=_client_waits(passed),
            ),
            loop.time(),
            jitter=random.random,
        )

    def run(self) -> int:
        """Serve until told to stop. Return the exit status.

        Raises `ConfigError` and `ListenError` when the start is over before any process was begun.
        """
        while True:
            seen = file_state(self._instance.file)
            failed = self._try()
            interpreter.forget()
            self._loop.renew()
            if failed is None:
                break
            mends = failed.refusal is None
            state = self._start.failed(
                self._loop.time(), waiting_may_mend=mends, is_stopped=failed.is_stopped
            )
            if state is State.OVER:
                return self._give_up(failed)
            if state is State.STOPPED or not self._wait(failed.reason, seen):
                break
            self._loop.renew()
        self._last_failure.forget()
        self._chronicle.has_stopped()
        return 0

    def _give_up(self, failed: _Failed) -> int:
        if failed.refusal is not None:
            self._last_failure.note(failed.refusal.exit_status)
            self._chronicle.start_is_refused(failed.refusal)
            raise failed.refusal
        self._last_failure.note(EX_SOFTWARE)
        self._chronicle.could_not_start(failed.reason)
        self._chronicle.has_stopped()
        return EX_SOFTWARE

    def _wait(self, reason: str, seen: FileState | None) -> bool:
        deadline = self._start.deadline()
        assert deadline is not None
        self._chronicle.start_waits(reason, deadline - self._loop.time())
        with contextlib.ExitStack() as stack:
            return Waiting(
                self._start,
                reason,
                name=self._instance.name,
                addresses=_addresses(self._passed),
                loop=self._loop,
                chronicle=self._chronicle,
                control=self._serve_control(self._control, stack) if self._control else None,
                watched=self._instance.file,
                seen=seen,
            ).run()

    def _serve_control(self, listener: Listener, stack: contextlib.ExitStack) -> ControlServer:
        """Return a server of the control socket, which is over with `stack`."""
        callers, self._callers = self._callers, []
        server = ControlServer(self._loop, listener, callers)
        stack.callback(lambda: self._callers.extend(server.leave()))
        return server

    def _try(self) -> _Failed | None:
        """Run a cluster until it was told to stop, or has failed to start."""
        try:
            cluster = self._run_cluster()
        except ConfigError as error:
            return _Failed("; ".join(error.problems), error)
        except ListenError as error:
            return _Failed(str(error), error)
        if not cluster.failure:
            return None
        return _Failed(cluster.failure, is_stopped=cluster.is_told_to_stop)

    def _run_cluster(self) -> Cluster:
        """Run one to its end. Raises `ConfigError` and `ListenError` when none was begun."""
        instance = self._instance
        with contextlib.ExitStack() as stack:
            # First: a second master of the same name must not come near the first one's addresses.
            if self._control is None:
                self._control = _bind_control(instance.name)
            server = self._serve_control(self._control, stack)
            config = self._read()
            listeners = ListenerSet(
                passed=self._passed,
                addresses=config.listen,
                given=config.listen_given,
                reuse_port=config.scheduling == "reuseport",
                as_copies=True,  # A try closes what it has.
            )
            stack.callback(listeners.close)
            traffic = Traffic(
                config, listeners, self._loop, on_exhausted=self._chronicle.cannot_accept
            )
            traffic.check(config)
            instance.on_listening(listeners.addresses())
            cluster = Cluster(
                config=config,
                reread=self._read,
                traffic=traffic,
                loop=self._loop,
                journal=self._journal,
                chronicle=self._chronicle,
                estate=self._estate,
                on_ready=self._is_ready,
            )
            api = Api(cluster, now=self._loop.time)
            self._chronicle.observer = api
            stack.callback(self._forget_observer)
            server.answer(api.handle)
            cluster.run()
            return cluster

    def _read(self) -> Config:
        """Return the config as it is now.

        Raises `ConfigError`, whatever is the matter with it, and `ListenError`.
        """
        instance = self._instance
        try:
            return instance.read()
        except (ConfigError, ListenError):
            raise
        except Exception as error:  # Neither a start that may wait nor what runs ends by a file.
            source, what = instance.file or instance.name, f"{type(error).__name__}: {error}"
            raise ConfigError(f"{source}: cannot be read: {what}") from error

    def _forget_observer(self) -> None:
        self._chronicle.observer = None

    def _is_ready(self) -> None:
        self._last_failure.forget()
        self._instance.on_ready()

    def close(self) -> None:
        """Remove the control socket."""
        for connection in self._callers:
            connection.close()
        if self._control is not None:
            self._control.close()


def _bind_control(name: str) -> Listener:
    folder = runtime.directory(name)
    try:
        return control.listen(folder)
    except ListenError as error:
        cause = error.__cause__
        if isinstance(cause, OSError) and cause.errno == errno.EADDRINUSE:
            text = f"{name} runs already: a master listens on {folder / runtime.CONTROL}"
            raise ListenError(text) from cause
        raise


def _client_waits(passed: Sequence[tuple[int, str]]) -> bool:
    """Tell whether a connection waits to be accepted on one of the sockets."""
    poll = select.poll()
    for fd, _ in passed:
        poll.register(fd, select.POLLIN)
    return any(events & select.POLLIN for _, events in poll.poll(0))


def _addresses(passed: Sequence[tuple[int, str]]) -> list[str]:
    """Return where the sockets listen, each address once."""
    found: dict[str, None] = {}
    for fd, _ in passed:
        with contextlib.suppress(OSError), Borrowed(fd) as probe:
            found[address_text(probe)] = None
    return list(found)
