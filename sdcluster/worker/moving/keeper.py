"""The keeper: a process that holds the connections of a worker that dies, and gives them away.

It has the worker's table of descriptors, the same and not a copy: clone(2) with CLONE_FILES. So it
has each connection that the worker has, as long as either of them lives. It is made right after the
worker was forked, while that has one thread and little memory of its own, and it waits.

When the master dies, the worker is to answer what it has and to end. One that does not, as it is
stuck, say, is killed by its keeper: nobody else is there to do it.
"""

import array
import contextlib
import ctypes
import os
import platform
import select
import signal
import socket
from typing import NoReturn

from sdcluster.errors import reason_of
from sdcluster.system.descriptors import NO_ROOM, is_connection
from sdcluster.system.process import Label
from sdcluster.wire import channel
from sdcluster.wire.channel import MAX_CONNECTIONS_PER_FRAME
from sdcluster.wire.ledger import Head, Layout, State
from sdcluster.worker.moving import signatures, unix_counts
from sdcluster.worker.moving.ledger import Ledger
from sdcluster.worker.moving.replay import Policy

LEAVE_GRACE_S = 5.0
"""How much longer than its drain a worker may take to end when the master is dead."""
NO_ROOM_RETRY_MS = 5
"""How long to wait for the master when too many descriptors are on their way."""

_CONNECTED = (State.OPEN, State.PINNED, State.OWED, State.ANSWERING)
_LIBC = ctypes.PyDLL(None, use_errno=True)
_syscall = _LIBC.syscall  # Under the GIL, as fork(2) would be.
_poll = _LIBC.poll
_pthread_sigmask = _LIBC.pthread_sigmask
_ALL_SIGNALS = ctypes.create_string_buffer(b"\xff" * 128)
_MASK = ctypes.create_string_buffer(128)
_CLONE_FILES = 0x400
_WALL = 0x40000000
_CLONE = {
    "x86_64": 56,
    **dict.fromkeys(("aarch64", "riscv64", "loongarch64"), 220),
    **dict.fromkeys(("armv8l", "armv7l", "armv6l", "i686", "i386"), 120),
    **dict.fromkeys(("ppc64le", "ppc64", "s390x"), 120),
}
"""The number of clone(2). Not clone3(2), which is refused where RestrictNamespaces= is set, see
systemd.exec(5), as its flags cannot be looked at."""


class _PollFd(ctypes.Structure):
    """What poll(2) takes."""

    _fields_ = (("fd", ctypes.c_int), ("events", ctypes.c_short), ("revents", ctypes.c_short))


class Keeping:
    """What keepers need, made by the mold once: what each made for itself would be there each time.

    Each page of memory that a keeper writes to, or that both its worker and the mold do, is one
    more that it has to itself.
    """

    def __init__(
        self, label: Label, layout: Layout, *, replay: Policy, drain_timeout_s: float
    ) -> None:
        """`replay` is which requests may be made again.

        Raises OSError where it is not known how to make a keeper.
        """
        number = _CLONE.get(platform.machine())
        if number is None:
            raise OSError(f"the number of clone(2) on {platform.machine()} is not known")
        # Nobody is told of its end, so that the app's own wait(2) does not meet it.
        flags = [0, _CLONE_FILES] if platform.machine() == "s390x" else [_CLONE_FILES, 0]
        self._clone = [ctypes.c_long(number), *map(ctypes.c_ulong, flags), None, None, None]
        self._label = label
        self._layout = layout
        self._replay: Policy = replay
        self._leave_ms = int((drain_timeout_s + LEAVE_GRACE_S) * 1000)
        self._watch = (_PollFd * 2)(_PollFd(0, select.POLLIN), _PollFd(0, 0))
        """The worker, and the channel to the master: of its end, POLLHUP, one is always told."""

    def start(self, control_fd: int, ledger_fd: int) -> "Keeper":
        """Start the keeper of the own process, which has one thread. Raises OSError."""
        self._watch[0].fd = own = os.pidfd_open(os.getpid())
        self._watch[1].fd = control_fd
        # Else a signal could run a handler of the worker's in the keeper.
        _pthread_sigmask(signal.SIG_SETMASK, _ALL_SIGNALS, _MASK)
        pid = _syscall(*self._clone)
        if pid == 0:
            self._keep(control_fd, ledger_fd)
        code = ctypes.get_errno()
        _pthread_sigmask(signal.SIG_SETMASK, _MASK, None)
        if pid < 0:
            os.close(own)
            raise OSError(code, os.strerror(code))
        return Keeper(pid)

    def _keep(self, control_fd: int, ledger_fd: int) -> NoReturn:
        """Be the keeper."""
        try:
            self._label.show()
            self._wait()
            # The worker may have used up its descriptors: with the one that is closed we look at
            # what is there, and then at the ledger.
            with contextlib.suppress(OSError):  # The app has closed it.
                os.close(self._watch[0].fd)
            numbers = sorted(map(int, os.listdir("/proc/self/fd")))
            ledger = Ledger(self._layout, ledger_fd)
            connections = _connections(ledger, numbers)
            for number in connections:
                unix_counts.settle(ledger, number)
                signatures.note(ledger, number, replay=self._replay)
            _pass_on(socket.socket(fileno=control_fd), ledger, connections)
        except ConnectionError:
            pass  # The master is dead: there is nobody to give them to.
        except Exception as error:
            who = f"{self._label.title} (pid {os.getpid()})"
            what = f"cannot give all connections to the master: {reason_of(error)}"
            os.write(2, f"{who}: {what}\n".encode())
        finally:
            os._exit(0)

    def _wait(self) -> None:
        """Wait for the end of the worker, and see to it when the master has died."""
        worker, master = self._watch
        timeout_ms = -1
        while not worker.revents:
            if not _poll(self._watch, 2, timeout_ms):
                signal.pidfd_send_signal(worker.fd, signal.SIGKILL)
                timeout_ms = -1
            if master.revents:
                master.fd = -1  # It is told once.
                if master.revents & select.POLLHUP:
                    timeout_ms = self._leave_ms


class Keeper:
    """A keeper that runs, as its worker sees it."""

    def __init__(self, pid: int) -> None:
        """Raises OSError, and there is no keeper then."""
        self.pid = pid
        try:
            self._pidfd = os.pidfd_open(pid)
        except OSError:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, _WALL)
            raise

    def fileno(self) -> int:
        """Return a descriptor that is readable when the keeper is dead: pidfd_open(2)."""
        return self._pidfd


def _pass_on(control: socket.socket, ledger: Ledger, numbers: list[int]) -> None:
    """Give the master the connections of some numbers, which the worker has left."""
    if numbers:
        _send(control, channel.LEDGER, [ledger.fd])
    for begin in range(0, len(numbers), MAX_CONNECTIONS_PER_FRAME):
        some = numbers[begin : begin + MAX_CONNECTIONS_PER_FRAME]
        _send(control, channel.encode_kept(some), some)
    _send(control, channel.KEPT_ALL, [])


def _connections(ledger: Ledger, numbers: list[int]) -> list[int]:
    """Return which descriptors, of those that the worker had, are its connections."""
    words = ledger.words
    is_taking = words[Head.TAKING]
    found = []
    for number in numbers:
        if not ledger.has(number):
            break
        state = words[ledger.index(number)]
        if state in _CONNECTED or (is_taking and state == State.NONE):
            found.append(number)
    return [number for number in found if is_connection(number)]


def _send(control: socket.socket, data: bytes, fds: list[int]) -> None:
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
    while True:
        poll = select.poll()
        try:
            control.sendmsg([data], rights, socket.MSG_NOSIGNAL)
        except BlockingIOError:
            poll.register(control, select.POLLOUT)
            poll.poll()
        except OSError as error:
            if error.errno not in NO_ROOM:
                raise
            poll.poll(NO_ROOM_RETRY_MS)
        else:
            return
