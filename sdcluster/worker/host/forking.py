"""fork(2) apart from what Python does around it, for processes that do not go on with Python.

What `os.fork` does in a child writes to hundreds of pages of memory, which are copied; a process
that only waits has these to itself for as long as it does. So it is done when it is needed. The
functions are those of Python's C API, "Operating System Utilities".
"""

import ctypes
import os

_fork = ctypes.PyDLL(None, use_errno=True).fork  # With the GIL, as `os.fork`.
# Found here, as between the two that follow nothing more is to be made.
_before_fork = ctypes.pythonapi.PyOS_BeforeFork
_after_fork_parent = ctypes.pythonapi.PyOS_AfterFork_Parent
_after_fork_child = ctypes.pythonapi.PyOS_AfterFork_Child


def begin() -> None:
    """Do what comes before a fork, in a process that goes on with Python, or whose child does."""
    _before_fork()


def fork() -> int:
    """Fork the process, which has one thread; return 0 in the child. Raises OSError."""
    pid: int = _fork()
    if pid < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return pid


def end_in_parent() -> None:
    """Do what comes after a fork, in the process that has called `begin`, however it went."""
    _after_fork_parent()


def end_in_child() -> None:
    """Do what comes after a fork, in the child of a process that has called `begin`."""
    _after_fork_child()
