"""A worker that is a program of the user's choice: the socket activation protocol, from the child.

sd_listen_fds(3) and sd_notify(3), with the master in systemd's place.
"""

import os
import signal
import socket
from collections.abc import Sequence
from typing import NoReturn

from sdcluster.errors import reason_of
from sdcluster.system import process
from sdcluster.wire import listenfds
from sdcluster.wire.frames import Fork, Prepare
from sdcluster.worker.moving.intake import tell

EXIT_EXEC = 203
"""Systemd's own exit status for a program that cannot be executed, see systemd.exec(5)."""


def execute(
    prepare: Prepare, order: Fork, control: socket.socket, listeners: Sequence[int], *, master: int
) -> NoReturn:
    """Become the command. `master` is the pid of the process that it ends with."""
    os.setsid()  # As systemd does: what it starts can be told from the rest, and ended with it.
    _end_with(master)
    environment = dict(os.environ)
    environment |= listenfds.environment(_names(prepare, len(listeners)), os.getpid())
    environment["NOTIFY_SOCKET"] = order.notify_socket
    if order.watchdog_usec:
        environment["WATCHDOG_USEC"] = str(order.watchdog_usec)
        environment["WATCHDOG_PID"] = str(os.getpid())
    control = _move_away(control, listenfds.FIRST_FD + 2 * len(listeners) + 1)
    for source, target in listenfds.plan_moves(listeners):
        os.dup2(source, target, inheritable=True)
    for index in range(len(listeners)):
        os.set_inheritable(listenfds.FIRST_FD + index, True)
    for number in signal.valid_signals():
        # Also those that Python ignores: what is ignored stays so across execve(2).
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)
    if prepare.exec_ready == "started":
        tell(control, READY=1)
    try:
        os.execvpe(prepare.command[0], list(prepare.command), environment)
    except OSError as error:
        tell(control, X_FAILED=f"cannot execute {prepare.command[0]}: {reason_of(error)}")
        os._exit(EXIT_EXEC)


def _end_with(master: int) -> None:
    """Get SIGTERM when the master dies: a Python worker would see that its channel is closed."""
    process.wait_until_adopted(master)
    process.get_signal_when_parent_dies(signal.SIGTERM)
    if os.getppid() != master:
        os._exit(EXIT_EXEC)  # It died before.


def _names(prepare: Prepare, count: int) -> list[str]:
    names = [name or "unknown" for name in prepare.listener_names[:count]]
    return names + ["unknown"] * (count - len(names))


def _move_away(control: socket.socket, lowest: int) -> socket.socket:
    """Return the channel on a descriptor that the moves do not touch."""
    import fcntl

    return socket.socket(fileno=fcntl.fcntl(control.fileno(), fcntl.F_DUPFD_CLOEXEC, lowest + 16))
