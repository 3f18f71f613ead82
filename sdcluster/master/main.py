"""Starts a master: from a config to a running cluster, and its exit status."""

import contextlib
import errno
import resource
import signal
from collections.abc import Callable
from pathlib import Path

from sdcluster import process, runtime
from sdcluster.config import Config
from sdcluster.errors import ConfigError, ListenError, SdclusterError, reason_of
from sdcluster.master.api import Api
from sdcluster.master.chronicle import Chronicle
from sdcluster.master.cluster import Cluster
from sdcluster.master.control import ControlServer
from sdcluster.master.journal import EventKind, Journal
from sdcluster.master.listeners import ListenerSet
from sdcluster.master.loop import Loop
from sdcluster.master.systemd import ServiceManager, take_listen_fds
from sdcluster.master.traffic import Traffic


def serve(
    config: Config,
    *,
    reread: Callable[[], Config],
    on_listening: Callable[[list[str]], None] = lambda _addresses: None,
    on_ready: Callable[[], None] = lambda: None,
) -> int:
    """Serve until told to stop. Return the exit status.

    `reread` returns the config as it is now, for a reload. `on_listening` is told the addresses
    before anything is started, `on_ready` when the cluster serves for the first time. Raises
    `ConfigError` and `ListenError` before any process is started.
    """
    try:
        passed = take_listen_fds()  # Before a descriptor is opened in the place of one missing.
    except ConfigError as error:
        _explain(ServiceManager(), error)
        raise
    manager = ServiceManager()
    with contextlib.ExitStack() as stack:
        stack.callback(manager.close)
        journal = Journal(config.name)
        stack.callback(journal.close)
        chronicle = Chronicle(journal, manager)
        loop = Loop()
        stack.callback(loop.close)
        try:
            # First: a second master of the same name must not come near the first one's addresses.
            control = _control(loop, runtime.directory(config.name), config.name)
            stack.callback(control.close)
            listeners = ListenerSet(
                passed=passed,
                addresses=config.listen,
                given=config.listen_given,
                reuse_port=config.scheduling == "reuseport",
            )
            stack.callback(listeners.close_bound)
            traffic = Traffic(config, listeners, loop, on_exhausted=chronicle.cannot_accept)
            traffic.check(config)
        except (ConfigError, ListenError) as error:
            _explain(manager, error)
            raise
        on_listening(listeners.addresses())
        process.become_subreaper()
        process.Label(f"sdcluster: master {config.name}").show()
        _raise_descriptor_limit(journal)
        # Molds and workers are started with this mask and these handlers.
        signal.signal(signal.SIGPIPE, signal.SIG_IGN)
        cluster = Cluster(
            config=config,
            reread=reread,
            traffic=traffic,
            loop=loop,
            journal=journal,
            chronicle=chronicle,
            on_ready=on_ready,
        )
        api = Api(cluster, now=loop.time)
        chronicle.observer = api
        control.answer(api.handle)
        return cluster.run()


def _control(loop: Loop, folder: Path, name: str) -> ControlServer:
    try:
        return ControlServer(loop, folder)
    except ListenError as error:
        cause = error.__cause__
        if isinstance(cause, OSError) and cause.errno == errno.EADDRINUSE:
            text = f"{name} runs already: a master listens on {folder / runtime.CONTROL}"
            raise ListenError(text) from cause
        raise


def _explain(manager: ServiceManager, error: SdclusterError) -> None:
    manager.status(str(error))
    if isinstance(error.__cause__, OSError) and error.__cause__.errno:
        manager.failed(error.__cause__.errno)


def _raise_descriptor_limit(journal: Journal) -> None:
    """Use all the descriptors that the hard limit allows, see getrlimit(2)."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        except (OSError, ValueError) as error:
            journal.write(EventKind.NOTE, f"at most {soft} descriptors: {reason_of(error)}")
