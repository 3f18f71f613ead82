"""Starts a master: what a process is before it has a cluster.

The modules of the cluster are imported after the interpreter of the first mold was begun, which
imports its own at the same time.
"""

import contextlib
import os
import resource
import signal

from sdcluster.errors import ConfigError, reason_of
from sdcluster.master.host.journal import EventKind, Journal
from sdcluster.master.host.loop import Loop
from sdcluster.master.host.systemd import ServiceManager, take_listen_fds
from sdcluster.master.processes import interpreter
from sdcluster.master.service.instance import Instance
from sdcluster.system import process


def serve(instance: Instance, *, may_wait: bool = False) -> int:
    """Serve until told to stop. Return the exit status.

    `may_wait` says that a start that fails may be tried again, if a service manager has started
    this process. Raises `ConfigError` and `ListenError` when no process was started.
    """
    is_service = may_wait and bool(os.environ.get("NOTIFY_SOCKET"))
    error: ConfigError | None = None
    passed: list[tuple[int, str]] = []
    try:
        passed = take_listen_fds()  # Before a descriptor is opened in the place of one missing.
    except ConfigError as wrong:
        error = wrong
    with contextlib.ExitStack() as stack:
        manager = ServiceManager()
        stack.callback(manager.close)
        journal = Journal(instance.name)
        stack.callback(journal.close)
        loop = Loop()
        stack.callback(loop.close)
        process.become_subreaper()
        process.Label(f"sdcluster: master {instance.name}").show()
        _raise_descriptor_limit(journal)
        # Molds and workers are started with this mask and these handlers.
        signal.signal(signal.SIGPIPE, signal.SIG_IGN)
        if error is None:
            stack.callback(interpreter.forget)
            _begin_interpreter(instance)

        from sdcluster.master.service.chronicle import Chronicle
        from sdcluster.master.service.estate import Estate
        from sdcluster.master.service.launch import Launch

        chronicle = Chronicle(journal, manager)
        if error is not None:
            chronicle.start_is_refused(error)
            raise error
        estate = Estate(manager, passed)
        stack.callback(lambda: chronicle.connections_are_left(estate.settle()))
        launch = Launch(
            instance,
            passed=estate.listening,
            estate=estate,
            loop=loop,
            journal=journal,
            chronicle=chronicle,
            is_service=is_service,
        )
        stack.callback(launch.close)
        return launch.run()


def _begin_interpreter(instance: Instance) -> None:
    with contextlib.suppress(Exception):  # Whatever is wrong with the config, the launch tells.
        interpreter.begin(instance.read())


def _raise_descriptor_limit(journal: Journal) -> None:
    """Use all the descriptors that the hard limit allows, see getrlimit(2)."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        except (OSError, ValueError) as error:
            journal.write(EventKind.NOTE, f"at most {soft} descriptors: {reason_of(error)}")
