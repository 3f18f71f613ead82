"""What the kernel has and knows of the own process: prctl(2), the title, where stderr goes.

Used by the master and by the workers; it needs the standard library alone.
"""

import contextlib
import ctypes
import functools
import os
import select
from typing import Any

_PR_SET_PDEATHSIG = 1
_PR_SET_NAME = 15
_PR_SET_CHILD_SUBREAPER = 36


class Label:
    """How the own process is to be shown. It is all prepared: to show it takes no more memory."""

    def __init__(self, title: str, name: str = "") -> None:
        """`title` is for ps(1) and /proc/PID/cmdline, as far as it fits over the arguments.

        Where the kernel does not tell where these are, it is left out. `name` is the kernel's for
        the process, in at most 15 bytes: what top(1) and /proc/PID/comm show.
        """
        self.title = title
        self._prctl = _libc().prctl
        self._memmove = _libc().memmove
        buffer = ctypes.create_string_buffer(name.encode()[:15])
        self._name = (ctypes.c_int(_PR_SET_NAME), buffer) if name else None
        self._title: tuple[Any, ...] | None = None
        with contextlib.suppress(OSError, ValueError, IndexError):
            start, end = _arguments()
            text = ctypes.create_string_buffer(title.encode()[: end - start - 1], end - start)
            self._title = (ctypes.c_void_p(start), text, ctypes.c_size_t(end - start))

    def show(self) -> None:
        """Show it."""
        if self._name is not None:
            self._prctl(*self._name)
        if self._title is not None:
            self._memmove(*self._title)


def become_subreaper() -> None:
    """Become the parent of every orphan among one's descendants. Raises OSError."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def get_signal_when_parent_dies(number: int) -> None:
    """Have the kernel send the own process a signal when its parent ends; it survives execve(2).

    Raises OSError.
    """
    _prctl(_PR_SET_PDEATHSIG, number)


def wait_until_adopted(parent: int) -> None:
    """Wait until the own process is a child of `parent`, or of whoever is there in its place.

    For a process whose first parent exits right after the fork. Raises OSError.
    """
    first = os.getppid()
    if first == parent:
        return
    try:
        pidfd = os.pidfd_open(first)
    except ProcessLookupError:
        return  # It has just exited.
    try:
        if os.getppid() == first:
            select.select([pidfd], [], [])  # Readable at its exit; its children are moved before.
    finally:
        os.close(pidfd)


def stderr_is_journal() -> bool:
    """Tell whether stderr goes to the journal: JOURNAL_STREAM names it, see systemd.exec(5)."""
    try:
        stream = os.fstat(2)
    except OSError:
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{stream.st_dev}:{stream.st_ino}"


@functools.cache
def _arguments() -> tuple[int, int]:
    """Return where the arguments are in memory, see proc_pid_stat(5): arg_start and arg_end.

    It is the same in each process that is forked.
    """
    with open("/proc/self/stat", "rb") as file:
        fields = file.read().rpartition(b")")[2].split()
    return int(fields[45]), int(fields[46])


@functools.cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _prctl(option: int, argument: int) -> None:
    if _libc().prctl(option, ctypes.c_ulong(argument), 0, 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
